"""DeepDream: a picture that shows more of what the network sees in it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, Picture
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.ascend import Trace, ascend
from lantern.optimize.optimizers import NormalisedAscent
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import technique
from lantern.vision_model import VisionModel


class DeepDreamParams(Params):
    """What to dream of, how deep and how long."""

    layer: str | None = Field(
        None, max_length=200, description="layer to excite; a middle one of the network if absent"
    )
    channels: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(
        (), max_length=64, description="channels to excite; all if empty"
    )
    steps: int = Field(10, ge=1, le=200, description="steps at each octave")
    octaves: int = Field(
        4, ge=1, le=10, description="sizes the picture is dreamt at, small to full"
    )
    octave_scale: float = Field(1.4, ge=1.1, le=2.0, description="ratio of one size to the next")
    step_size: float = Field(
        0.03,
        gt=0,
        le=0.5,
        description="how far a step moves, in standard deviations of the gradient",
    )
    jitter: int = Field(
        16,
        ge=0,
        le=64,
        description="largest shift before each step",
        json_schema_extra={"unit": "px"},
    )
    size: int = Field(
        512,
        ge=64,
        le=1024,
        description="longest side of the result",
        json_schema_extra={"unit": "px"},
    )


@technique(
    "deep-dream",
    title="DeepDream",
    family="synthesis",
    runs="job",
    source="Mordvintsev et al. 2015, Inceptionism: Going Deeper into Neural Networks",
    outputs={"picture": "the dream"},
)
def deep_dream(
    model: VisionModel,
    image: Annotated[Image, "picture to dream on"],
    params: DeepDreamParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Amplify what a layer already sees in the picture, from coarse to fine.

    At each octave the detail dreamt so far is carried up and laid over the picture at that size.
    """
    layer = params.layer or model.dream_layer
    photo = model.fit(image, params.size)
    sizes = _sizes(photo, params)
    detail = torch.zeros(1, 3, *sizes[0])
    octaves: list[dict[str, float]] = []
    with model.capture([layer]) as features:

        def dream(number: int, pixels: Tensor) -> Trace:
            def loss(step: int) -> Tensor:
                seen = features(_shift(pixels, params.jitter, generator))[layer]
                return -_objective(seen, params.channels, layer)

            def clip(step: int) -> None:
                pixels.clamp_(0, 1)

            return ascend(
                loss,
                NormalisedAscent([pixels], params.step_size),
                steps=params.steps,
                progress=progress,
                preview=lambda: _picture(pixels, photo),
                after=clip,
                checkpoints=checkpoints,
                generator=generator,
                stage=number,
                stages=len(sizes),
            )

        for number, (height, width) in enumerate(sizes):
            base = photo.resize(height, width).pixels[None]
            start = (base + _enlarge(detail, height, width)).clamp(0, 1)
            pixels = start.to(model.device).requires_grad_()
            trace = dream(number, pixels)
            octaves.append(_growth(trace, height, width))
            detail = pixels.detach().cpu() - base
    return Outcome(
        (Picture("picture", _picture(pixels, photo)),), {"layer": layer, "octaves": octaves}
    )


def _growth(trace: Trace, height: int, width: int) -> dict[str, float]:
    first, last = -trace.losses[0], -trace.losses[-1]
    return {"height": height, "width": width, "first": round(first, 6), "last": round(last, 6)}


def _enlarge(detail: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(detail, size=(height, width), mode="bilinear", align_corners=False)


def _sizes(photo: Image, params: DeepDreamParams) -> list[tuple[int, int]]:
    """Return the height and width of each octave, smallest first, none under 48 px."""
    scales = [params.octave_scale**-n for n in reversed(range(params.octaves))]
    sizes = [(round(photo.height * s), round(photo.width * s)) for s in scales]
    return [size for size in sizes[:-1] if min(size) >= 48] + sizes[-1:]


def _shift(pixels: Tensor, jitter: int, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    return pixels.roll((down, right), (2, 3))


def _objective(activation: Tensor, channels: tuple[int, ...], layer: str) -> Tensor:
    """Mean square of the activation, of all channels or of the chosen ones."""
    if channels:
        count = activation.shape[1]
        wrong = [channel for channel in channels if not 0 <= channel < count]
        if wrong:
            raise InvalidParameter(
                f"layer {layer} has the channels 0 to {count - 1}, not {wrong[0]}",
                pointer="/params/channels",
            )
        activation = activation[:, list(channels)]
    return activation.square().mean()


def _picture(pixels: Tensor, photo: Image) -> Image:
    image = Image(pixels.detach()[0].clamp(0, 1).cpu())
    return dataclasses.replace(image.resize(photo.height, photo.width), alpha=photo.alpha)
