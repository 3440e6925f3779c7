"""Techniques that only tests know, with slots of every kind."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from lantern.artifact import Animation, Artifact, Grid, Outcome, Picture, Table, Weights
from lantern.image import Image
from lantern.params import Params
from lantern.registry import Count, technique


class CollageParams(Params):
    amount: float = Field(0.5, ge=0, le=1, description="how much")


class NoiseParams(Params):
    size: int = Field(32, ge=16, le=64, description="side of the picture")


def collage(
    image: Annotated[Image, "what is shown"],
    mask: Annotated[Image | None, "where it is shown"],
    style: Annotated[tuple[Image, ...], "what it is shown with", Count(1, 3)],
    wide_extra: Annotated[tuple[Image, ...], "what else there is", Count(0, 2)],
    params: CollageParams,
) -> Outcome:
    """Tell the mean levels of all pictures, in their order."""
    slots = {"image": (image,), "mask": (mask,), "style": style, "wide_extra": wide_extra}
    rows = tuple(
        {"slot": slot, "level": round(float(picture.pixels.mean()) * 255)}
        for slot, several in slots.items()
        for picture in several
        if picture is not None
    )
    return Outcome((Table("levels", rows), Picture("picture", image)), {"found": len(rows)})


def noise(params: NoiseParams, generator: torch.Generator) -> Outcome:
    """Make a picture from nothing."""
    pixels = torch.rand(3, params.size, params.size, generator=generator)
    return Outcome((Picture("picture", Image(pixels)),), {"size": params.size})


def shown(image: Annotated[Image | None, "what is shown, if anything"], params: Params) -> Outcome:
    """Show a picture, or a grey one."""
    return Outcome((Picture("picture", image or Image(torch.full((3, 16, 16), 0.5))),), {"x": 1})


class AlbumParams(Params):
    first: Literal["grid", "animation", "weights"] = Field("grid", description="principal artifact")


LEVELS = (0.1, 0.5, 0.9)


def album(params: AlbumParams) -> Outcome:
    """Make one artifact of each kind that holds more than a picture."""
    images = torch.stack([torch.full((3, 24, 32), level) for level in LEVELS])
    images[:, :, :, :16] = 0  # so that frames have edges
    made: dict[str, Artifact] = {
        "grid": Grid("grid", images, columns=2, captions=("low", "middle", "high")),
        "animation": Animation("animation", tuple(map(Image, images)), frame_ms=80),
        "weights": Weights("weights", {"a.b": images[:, 0]}, {"made-by": "album", "steps": "3"}),
    }
    first = made.pop(params.first)
    return Outcome((first, *made.values()), {"levels": list(LEVELS)})


def register() -> None:
    """Register them; the registry must be the test's own."""
    technique(
        "collage", family="inference", runs="job", source="a test",
        outputs={"levels": "mean levels", "picture": "the first picture"},
    )(collage)  # fmt: skip
    technique(
        "album", family="synthesis", runs="job", source="a test",
        outputs={"grid": "a sheet", "animation": "a film", "weights": "what was learnt"},
    )(album)  # fmt: skip
    for function, runs in ((noise, "job"), (shown, "interactive")):
        technique(
            function.__name__, family="synthesis", source="a test", runs=runs,  # type: ignore[arg-type]
            outputs={"picture": "a picture"},
        )(function)  # fmt: skip
