"""What became of a picture that was to fool a network: told, measured and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lantern.artifact import Animation, Artifact, Table, numbered
from lantern.image import Image
from lantern.metrics import ssim
from lantern.optimize.perturbation import WHITE
from lantern.vision_model import VisionModel

# How long a frame of the animation is seen, ms, and the quality of JPEG files that is tried.
FRAME_MS, JPEG_QUALITY = 800, 90
# Standard deviations of a change that are shown from black to white, each way.
SPREAD = 4


@dataclass(frozen=True)
class Seen:
    """What the network makes of a picture of its own size: class scores `[1,C]`."""

    logits: Tensor

    @staticmethod
    def of(model: VisionModel, image: Image) -> Seen:
        """Look at a picture as `classify` does."""
        with torch.no_grad():
            return Seen(model.logits(model.frame(image).pixels))

    @property
    def index(self) -> int:
        """The class it is taken for."""
        return int(self.logits[0].argmax())

    def described(self, model: VisionModel, when: str) -> dict[str, Any]:
        """Return class, label and probability as columns of a table."""
        probability = float(model.probabilities(self.logits)[0, self.index])
        return {
            f"class_{when}": self.index,
            f"label_{when}": model.label(self.index),
            f"probability_{when}": round(probability, 6),
        }


@dataclass(frozen=True)
class Fooling:
    """A picture before and after, of the network's own size and in whole levels.

    `seen` is what it was taken for before, `target` what it was to be taken for, if anything.
    """

    before: Image
    after: Image
    seen: Seen
    target: int | None
    steps: int

    @property
    def change(self) -> Tensor:
        """The change `[3,H,W]` in levels."""
        return ((self.after.pixels - self.before.pixels) * WHITE).round()

    @property
    def amplification(self) -> float:
        """The factor by which the change is shown; only rare values are cut off."""
        largest, usual = self.change.abs().max(), self.change.square().mean().sqrt()
        return round(WHITE / 2 / max(1.0, min(float(largest), SPREAD * float(usual))), 2)

    def difference(self) -> Image:
        """Return the change around grey, amplified."""
        return Image((0.5 + self.change * self.amplification / WHITE).clamp(0, 1))

    def row(self, model: VisionModel) -> dict[str, Any]:
        """Measure it; what it is taken for after is asked of the file, written and read back."""
        change, read_back = self.change, Seen.of(model, _filed(self.after, "image/png"))
        return {
            "target": self.target,
            "steps": self.steps,
            "linf": int(change.abs().max()),
            "l2": round(float(change.norm()), 3),
            "ssim": round(ssim(self.before, self.after), 6),
            "amplification": self.amplification,
            **self.seen.described(model, "before"),
            **read_back.described(model, "after"),
            "holds_as_png": self._fools(read_back),
            "holds_as_jpeg": self._fools(Seen.of(model, _filed(self.after, "image/jpeg"))),
        }

    def _fools(self, seen: Seen) -> bool:
        return seen.index != self.seen.index and self.target in (None, seen.index)


def scores(model: VisionModel, foolings: Sequence[Fooling]) -> tuple[dict[str, Any], ...]:
    """Measure all of them; a row for each."""
    return tuple({"picture": n} | fooling.row(model) for n, fooling in enumerate(foolings, 1))


def artifacts(
    foolings: Sequence[Fooling], rows: tuple[dict[str, Any], ...]
) -> tuple[Artifact, ...]:
    """Return pictures, differences, animations and the table of all."""
    differences = [fooling.difference() for fooling in foolings]
    animations = [
        Animation(
            "animation" if number == 1 else f"animation-{number}",
            (fooling.before, difference, fooling.after, difference),
            FRAME_MS,
        )
        for number, (fooling, difference) in enumerate(zip(foolings, differences, strict=True), 1)
    ]
    return (
        *numbered("picture", [fooling.after for fooling in foolings], lossless=True),
        *numbered("difference", differences, lossless=True),
        *animations,
        Table("scores", rows),
    )


def _filed(image: Image, media_type: str) -> Image:
    return Image.decode(image.encode(media_type, JPEG_QUALITY))
