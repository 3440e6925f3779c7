"""Dreams on pictures: octave after octave, then frame after frame of the zoom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.optimize.excitement import Excitement
from lantern.optimize.octaves import Size, enlarged, octaves, zoomed
from lantern.optimize.optimizers import NormalisedAscent
from lantern.progress import Progress

if TYPE_CHECKING:
    from lantern.techniques.deep_dream import DeepDreamParams

# Octaves with a shorter side (px) are left out, but for the last.
SMALLEST = 48
# Two windows of so many steps are compared to tell whether an octave has settled.
WINDOW = 3


@dataclass(frozen=True)
class Dream:
    """What became of one picture: `pixels` `[3,H,W]`, `frames` uint8 `[T,3,H,W]`, and `facts`."""

    pixels: Tensor
    frames: Tensor
    facts: dict[str, Any]


class Dreamer:
    """Dreams on one picture after another, each octave and frame a stage of the run.

    Pictures of one size are no batch: rounding differs with the number of pictures in a pass, and
    dreams magnify it until they are others. So each becomes, to the bit, what it would be alone.
    """

    def __init__(
        self,
        device: torch.device,
        excitement: Excitement,
        params: DeepDreamParams,
        progress: Progress,
        generator: torch.Generator,
        checkpoints: Checkpoints,
    ) -> None:
        self._device, self._excitement, self._params = device, excitement, params
        self._progress, self._generator, self._checkpoints = progress, generator, checkpoints
        self._number = self._begun = self._total = 0

    def dream(self, photos: Sequence[Image]) -> list[Dream]:
        """Return what became of each picture."""
        self._total = sum(_steps(size_of(photo), self._params) for photo in photos)
        begin = self._generator.get_state()
        dreams: list[Dream] = []
        for photo in photos:
            self._generator.set_state(begin)
            dreams.append(self._one(photo))
        return dreams

    def _one(self, photo: Image) -> Dream:
        pixels, octaves = self._octaves(photo)
        dream = pixels.detach().cpu()[0]
        frames, zoom = self._frames(photo, pixels)
        return Dream(dream, frames, {"octaves": octaves} | zoom)

    def _octaves(self, photo: Image) -> tuple[Tensor, list[dict[str, float]]]:
        """Dream on a picture from coarse to fine, `[1,3,H,W]`; tell of each octave."""
        sizes, ground = octaves_of(size_of(photo), self._params), photo.opaque()
        detail, facts = torch.zeros(1, 3, *sizes[0]), []
        for size in sizes:
            base = ground.resize(*size).pixels[None]
            start = (base + enlarged(detail, size)).clamp(0, 1)
            # of the smaller octaves only the detail is needed, and only by the next
            pixels, trace = self._stage(photo, start, self._params.steps, leaves=size == sizes[-1])
            facts.append({"height": size[0], "width": size[1]} | _growth([trace]))
            detail = pixels.detach().cpu() - base
        return pixels, facts

    def _frames(self, photo: Image, dream: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Fall into a dream and dream on, uint8 `[T,3,H,W]`; the dream itself is the first frame.

        Frames are remembered in 8 bits: a state that kept all of them as they are would be large.
        """
        pixels, frames, traces = dream, [_in_8_bits(dream)], list[Trace]()
        for _ in range(1, self._params.frames):
            start = zoomed(pixels.detach(), self._params.zoom).clamp(0, 1)
            name = f"frame of stage {self._number}"
            pixels, trace = self._stage(photo, start, self._params.frame_steps, leaves=False)
            frames.append(self._checkpoints.remember(name, partial(_in_8_bits, pixels)))
            traces.append(trace)
        return torch.cat(frames), {"zoom": _growth(traces)} if traces else {}

    def _stage(
        self, photo: Image, start: Tensor, steps: int, *, leaves: bool
    ) -> tuple[Tensor, Trace]:
        """Ascend from `start`, as the next stage of the run; return the pixels on their device."""
        params = self._params
        pixels = start.to(self._device).requires_grad_()

        def loss(step: int) -> Tensor:
            shifted = _shifted(pixels, params.jitter, self._generator)
            return -self._excitement.of(shifted, self._generator)

        def clip(step: int) -> None:
            pixels.clamp_(0, 1)

        trace = ascend(
            loss,
            NormalisedAscent([pixels], params.step_size, levels=params.levels),
            steps=steps,
            progress=self._progress,
            preview=lambda: _preview(pixels, photo),
            after=clip,
            settled=Settled(WINDOW, params.settle) if params.settle else None,
            checkpoints=self._checkpoints,
            generator=self._generator,
            stage=self._number,
            span=(self._begun, self._total),
            leaves=leaves,
        )
        self._number, self._begun = self._number + 1, self._begun + steps
        return pixels, trace


def size_of(photo: Image) -> Size:
    """Return height and width, px."""
    return photo.height, photo.width


def octaves_of(size: Size, params: DeepDreamParams) -> list[Size]:
    """Return the sizes a picture is dreamt at, small to full."""
    return octaves(size, count=params.octaves, scale=params.octave_scale, smallest=SMALLEST)


def _steps(size: Size, params: DeepDreamParams) -> int:
    """Return how many steps a picture takes, all octaves and frames together."""
    frames = max(0, params.frames - 1)
    return len(octaves_of(size, params)) * params.steps + frames * params.frame_steps


def _shifted(pixels: Tensor, jitter: int, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    return pixels.roll((down, right), (2, 3))


def _growth(traces: Sequence[Trace]) -> dict[str, float]:
    """Say how many steps there were, and the objective before the first and before the last."""
    first, last = -traces[0].losses[0], -traces[-1].losses[-1]
    steps = sum(len(trace.losses) for trace in traces)
    return {"steps": steps, "first": round(first, 6), "last": round(last, 6)}


def _in_8_bits(pixels: Tensor) -> Tensor:
    return pixels.detach().cpu().mul(255).round().to(torch.uint8)


def _preview(pixels: Tensor, photo: Image) -> Image:
    image = Image(pixels.detach()[0].cpu())
    return photo.repainted(image.resize(photo.height, photo.width).pixels)
