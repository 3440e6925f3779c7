"""Neural style transfer: a photograph repainted by optimisation, any painting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, Picture
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.objectives import content_loss, gram, style_loss
from lantern.optimize.parametrize import Pyramid
from lantern.optimize.regularize import total_variation
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import technique
from lantern.vision_model import VisionModel


class StyleTransferParams(Params):
    """How long, how large, and what to weigh."""

    steps: int = Field(150, ge=1, le=2000, description="optimisation steps")
    size: int = Field(
        384,
        ge=64,
        le=1024,
        description="longest side of the result",
        json_schema_extra={"unit": "px"},
    )
    style_size: int = Field(
        384,
        ge=64,
        le=1024,
        description="longest side the painting is looked at; larger means broader strokes",
        json_schema_extra={"unit": "px"},
    )
    content_weight: float = Field(
        0.2, ge=0, le=100, description="how much of the photograph is kept, against style = 1"
    )
    tv_weight: float = Field(1.0, ge=0, le=100, description="weight of the smoothness of pixels")
    optimizer: Literal["adam", "l-bfgs"] = Field("adam", description="how steps are taken")
    learning_rate: float = Field(
        0.015, gt=0, le=1, description="Adam's rate, in pixel units of 0..1"
    )
    init: Literal["content", "noise"] = Field("content", description="picture to start from")


# Levels of the pyramid, the number of shifts tried in turn, and how far one goes (px).
LEVELS, SHIFTS, SHIFT = 5, 8, 8


@technique(
    "style-transfer",
    title="Neural style transfer",
    family="synthesis",
    runs="job",
    source="Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks, section 2",
    outputs={"picture": "the photograph in the painting's hand"},
)
def style_transfer(
    model: VisionModel,
    image: Annotated[Image, "photograph whose content is kept"],
    style: Annotated[Image, "painting whose hand is taken"],
    params: StyleTransferParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Repaint a photograph in the hand of any painting, by optimising its pixels.

    Losses are relative to their targets, so that the same weights serve every network and size.
    Two departures from the paper keep networks with strided first layers from painting grids and
    coloured grain: the picture is a sum of a pyramid's levels, and each step looks at it shifted
    by a few pixels.
    """
    photo = model.fit(image, params.size)
    content = photo.pixels[None].to(model.device)
    hand = model.fit(style, params.style_size, pointer="/params/style_size")
    painting = hand.pixels[None].to(model.device)
    canvas = Pyramid(_start(content, params, generator), levels=LEVELS)
    shifts = torch.randint(0, SHIFT, (SHIFTS, 2), generator=generator).tolist()
    terms: dict[str, float] = {}

    with model.capture([*model.style_layers, *model.content_layers]) as features:
        with torch.no_grad():
            painted = features(painting)
            grams = {name: gram(painted[name]) for name in model.style_layers}
            contents = [_targets(features(_moved(content, s)), model) for s in shifts]

        def loss(step: int) -> Tensor:
            chosen = step % SHIFTS
            pixels = canvas.pixels()
            seen = features(_moved(pixels, shifts[chosen]))
            parts = {
                "style": style_loss(seen, grams).sum(),
                "content": content_loss(seen, contents[chosen]).sum(),
                "tv": total_variation(pixels).sum(),
            }
            terms.update({name: part.item() for name, part in parts.items()})
            return (
                parts["style"]
                + params.content_weight * parts["content"]
                + params.tv_weight * parts["tv"]
            )

        trace = ascend(
            loss,
            _optimizer(canvas.parameters, params),
            steps=params.steps,
            progress=progress,
            preview=lambda: _picture(canvas, photo),
            checkpoints=checkpoints,
            generator=generator,
            settled=Settled(window=2 * SHIFTS, gain=2e-3),
        )
    facts = {
        "losses": {name: round(value, 6) for name, value in terms.items()},
        "loss": {"first": round(trace.losses[0], 6), "last": round(trace.losses[-1], 6)},
        "steps": len(trace.losses),
        "settled": trace.settled,
    }
    return Outcome((Picture("picture", _picture(canvas, photo)),), facts)


def _start(content: Tensor, params: StyleTransferParams, generator: torch.Generator) -> Tensor:
    if params.init == "content":
        return content
    return torch.rand(content.shape, generator=generator).to(content.device)


def _moved(pixels: Tensor, shift: Sequence[int]) -> Tensor:
    return pixels.roll(tuple(shift), (2, 3))


def _targets(seen: Mapping[str, Tensor], model: VisionModel) -> dict[str, Tensor]:
    return {name: seen[name] for name in model.content_layers}


def _optimizer(levels: list[Tensor], params: StyleTransferParams) -> torch.optim.Optimizer:
    if params.optimizer == "adam":
        return torch.optim.Adam(levels, lr=params.learning_rate, betas=(0.9, 0.99))
    # one evaluation a step; the curvature history is kept between steps
    return torch.optim.LBFGS(levels, lr=1.0, max_iter=1, history_size=20)


def _picture(canvas: Pyramid, photo: Image) -> Image:
    with torch.no_grad():
        return dataclasses.replace(photo, pixels=canvas.pixels()[0].cpu())
