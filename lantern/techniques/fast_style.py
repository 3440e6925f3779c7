"""Fast style transfer: a photograph painted in one forward pass."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import torch
from pydantic import Field

from lantern.artifact import Outcome, Picture
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.styles.library import StyleLibrary


class FastStyleParams(Params):
    """Which painting's hand, how strong, how large."""

    style: str = Field(
        "starry-night", max_length=64, description="name of a trained style, see the list of styles"
    )
    strength: float = Field(1.0, ge=0, le=1, description="1 is fully painted, 0 the photograph")
    size: int = Field(
        1024,
        ge=64,
        le=2048,
        description="longest side of the result; larger pictures are shrunk",
        json_schema_extra={"unit": "px"},
    )


@technique(
    "fast-style",
    title="Fast style transfer",
    family="stylization",
    runs="interactive",
    source="Johnson et al. 2016, arXiv:1603.08155",
    outputs={"picture": "the painted photograph"},
)
def fast_style(
    styles: StyleLibrary,
    image: Annotated[Image, "photograph to paint"],
    params: FastStyleParams,
) -> Outcome:
    """Paint a photograph in the hand of a painting, in one pass of a trained network."""
    painter = styles.painter(params.style)
    photo = image.fit(params.size)
    painted = painter.paint(photo)
    if params.strength < 1:
        blended = torch.lerp(photo.pixels, painted.pixels, params.strength)
        painted = dataclasses.replace(painted, pixels=blended)
    return Outcome((Picture("picture", painted),), {"engine": painter.engine.name})
