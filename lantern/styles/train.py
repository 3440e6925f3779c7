"""Training for paintings: photographs, painted, are to have a painting's statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.errors import MissingInput
from lantern.image import Image
from lantern.optimize.ascend import Trace, ascend
from lantern.progress import Progress
from lantern.styles.loss import PaintingLoss, PaintingLossParams
from lantern.styles.network import StyleNetwork
from lantern.vision_model import VisionModel

Painting = Callable[[Tensor], Tensor]


class Photographs:
    """Training photographs kept as uint8 `[H,W,3]`, served as random flipped crops."""

    def __init__(self, photos: Sequence[np.ndarray[Any, Any]], crop: int) -> None:
        if not photos:
            raise MissingInput("no training photographs; name a folder with at least one picture")
        self._photos, self._crop = photos, crop

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Return `[size,3,crop,crop]` in 0..1."""
        return torch.stack([self._one(generator) for _ in range(size)])

    def _one(self, generator: torch.Generator) -> Tensor:
        number, scale, top, left, flip = torch.rand(5, generator=generator).tolist()
        photo = self._photos[int(number * len(self._photos))]
        height, width = photo.shape[:2]
        side = max(1, int(min(height, width) * (0.6 + 0.4 * scale)))
        y, x = int(top * (height - side)), int(left * (width - side))
        box = Image.from_uint8(photo[y : y + side, x : x + side]).resize(self._crop, self._crop)
        return box.pixels.flip(-1) if flip < 0.5 else box.pixels


def small(image: Image, side: int) -> np.ndarray[Any, Any]:
    """Return a picture as it is kept for training: uint8, shrunk to a short side of `side` px."""
    is_small = min(image.height, image.width) <= side
    return (image if is_small else image.cover(side)).to_uint8()


def in_fours(image: Image) -> Image:
    """Cut a picture to sides that are multiples of 4, which no network has to pad."""
    return image.crop(0, 0, image.height // 4 * 4, image.width // 4 * 4)


@dataclass(frozen=True)
class Lesson:
    """What is painted, how it should look, and who judges it.

    `painting` is of the size at which its strokes are to be learnt; `batch` photographs are painted
    at each of `steps` steps, `rate` is Adam's highest.
    """

    painting: Image
    photos: Photographs
    judge: VisionModel
    weights: PaintingLossParams
    steps: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Learnt:
    """The losses of each step; at the end, what they were of style and of content."""

    trace: Trace
    style: float
    content: float

    def facts(self) -> dict[str, Any]:
        """Return them as plain data."""
        losses = self.trace.losses
        return {
            "steps": len(losses),
            "losses": {
                "first": round(losses[0], 4),
                "last": round(losses[-1], 4),
                "style": round(self.style, 4),
                "content": round(self.content, 4),
            },
        }


def learn(
    lesson: Lesson,
    paint: Painting,
    parameters: Iterable[Tensor],
    *,
    progress: Progress,
    preview: Callable[[], Image],
    generator: torch.Generator,
    checkpoints: Checkpoints | None = None,
) -> Learnt:
    """Change `parameters` until what `paint` makes of photographs `[N,3,S,S]` is as it should be.

    Source: Johnson et al. 2016, section 3.

    Raises:
        NotFinite, Cancelled: as `ascend`.
    """
    device = lesson.judge.device
    with PaintingLoss.by(lesson.judge) as judge:
        wanted = judge.hand(lesson.painting.pixels[None].to(device))

        def judged(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            batch = lesson.photos.batch(lesson.batch, generator).to(device)
            losses = judge(paint(batch), batch, wanted)
            return losses.total(lesson.weights), losses.style.mean(), losses.content.mean()

        trace = ascend(
            lambda step: judged(generator)[0],
            torch.optim.Adam(parameters),
            steps=lesson.steps,
            progress=progress,
            preview=preview,
            rate=lambda step: lesson.rate * schedule(step, lesson.steps),
            clip_norm=1.0,
            checkpoints=checkpoints,
            generator=generator,
        )
        with torch.no_grad():  # of what was learnt last, on pictures that are always the same
            _, style, content = judged(torch.Generator().manual_seed(0))
    return Learnt(trace, float(style), float(content))


def paint_preview(network: StyleNetwork, hand: Tensor | None, photo: Image) -> Image:
    """Paint a photograph as the network, or a hand `[D]`, is now, 256 px on its short side."""
    pixels = in_fours(photo.cover(256)).pixels[None]
    device = next(network.parameters()).device
    with torch.inference_mode():
        return Image(network(pixels.to(device), None if hand is None else hand[None])[0].cpu())


def schedule(step: int, steps: int) -> float:
    """Rise over the first 5 % of the steps, then fall along a cosine to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
