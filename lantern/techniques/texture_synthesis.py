"""Texture synthesis: as much as one likes of what a small picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field

from lantern.artifact import Outcome, numbered
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.optimize.likeness import seen_at_once, seen_in_step
from lantern.optimize.octaves import Size, fitted
from lantern.optimize.optimizers import Rule, remembered
from lantern.optimize.style import sorted_bytes, sorting
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.copier import Copier
from lantern.techniques.weaver import COLOURS, Weaver, layers_of, side_of, size_shown, sizes_of
from lantern.texture.growth import growth_operations
from lantern.texture.quilting import quilting_operations
from lantern.vision_model import VisionModel
from lantern.work import PIXEL, Sizes, Work

T = TypeVar("T")
LayerName = Annotated[str, Field(min_length=1, max_length=200)]


class TextureSynthesisParams(Params):
    """How the texture is made, and how large."""

    method: Literal["gram", "sliced-wasserstein", "growth", "quilting"] = Field(
        "gram",
        description=(
            "gram or sliced-wasserstein: features of a network are matched; growth: pixel by pixel "
            "from the best matching neighbourhoods; quilting: blocks joined by least-error cuts"
        ),
    )
    height: int = Field(
        256, ge=32, le=2048, description="rows of the texture", json_schema_extra={"unit": "px"}
    )
    width: int = Field(
        256, ge=32, le=2048, description="columns of the texture", json_schema_extra={"unit": "px"}
    )
    exemplar_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="longest side the exemplar is looked at: its grain becomes as large as it is "
        "then; 512, of growth and quilting 192, if absent",
        json_schema_extra={"unit": "px"},
    )
    tile_size: int = Field(
        1024,
        ge=256,
        le=2048,
        multiple_of=64,
        description="side of the tiles that gram looks at larger textures in, a multiple of 64",
        json_schema_extra={"unit": "px"},
    )
    tileable: bool = Field(False, description="make it fit to itself at opposite edges")
    steps: int = Field(
        100, ge=1, le=2000, description="most steps at each scale; of gram and sliced-wasserstein"
    )
    scales: int = Field(
        3, ge=1, le=5, description="sizes it is made at, each half the next; of gram and the other"
    )
    layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers to match; the network's style layers if empty"
    )
    optimizer: Rule = Field(
        "l-bfgs",
        description="how steps are taken: l-bfgs, the paper's way, comes near to the exemplar; "
        "adam needs less memory and looks from another place at each step",
    )
    learning_rate: float = Field(
        0.05, gt=0, le=1, description="Adam's rate, in pixel units of 0..1"
    )
    tv_weight: float = Field(0.1, ge=0, le=100, description="weight of the smoothness of pixels")
    window: int = Field(
        11,
        ge=3,
        le=41,
        description="side of the neighbourhoods of growth, odd",
        json_schema_extra={"unit": "px"},
    )
    nearest: bool = Field(
        False, description="growth takes the best match, not any of the nearly best"
    )
    block: int = Field(
        32,
        ge=6,
        le=256,
        description="side of the blocks of quilting",
        json_schema_extra={"unit": "px"},
    )


# Copies of the textures, beside those the optimiser has: start, clipped, moved, their colours
# at several scales, smoothness and gradients.
COPIES = 16
# The methods that need no network, and what is said of a texture by one of them.
COPYING = ("growth", "quilting")
COPIED = "every pixel is the exemplar's"
# Longest side (px) of an exemplar: a network must see what it is made of, not only its grain, and
# copying takes the longer the more there is to copy from.
LOOKED_AT, COPIED_FROM = 512, 192


def _longest(params: TextureSynthesisParams) -> int:
    """Return the longest side that exemplars are looked at."""
    return params.exemplar_size or (COPIED_FROM if params.method in COPYING else LOOKED_AT)


def _work(params: TextureSynthesisParams, sizes: Sizes, model: VisionModel) -> Work:
    exemplars = [fitted(size, _longest(params)) for size in sizes.get("image", ())]
    if params.method in COPYING:
        copied = growth_operations if params.method == "growth" else quilting_operations
        side = params.window if params.method == "growth" else params.block
        made = params.height * params.width
        return Work(0, 0, more=sum(copied(exemplar, made, side) for exemplar in exemplars))
    for name in layers_of(params, model):
        model.check_positions(name, pointer="/params/layers")
    scales = sizes_of(params)
    shown = [size_shown(size, params) for size in scales]
    own = model.input_size
    model.check_sizes(
        [*exemplars, *shown],
        f"choose scales=1, {own} for height, width and exemplar_size, a square exemplar of no "
        "less and, where it is to tile, adam; or another network, or a method that copies",
        pointer="/params/height",
    )
    seen = [seen_in_step(size, side_of(params), has_drawing=False) for size in shown]
    passes = 2 * params.steps * len(exemplars) * len(scales)
    pixels = sum(seen) / (2 * len(scales))
    most = max((len(group) for group in _together(exemplars, params)), default=0)
    at_once = most * seen_at_once(shown[-1], side_of(params))
    sorted_in_step = [_sorted(size, params, model) for size in shown]
    more = params.steps * len(exemplars) * sum(map(sorting, chain(*sorted_in_step)))
    pictures = most * params.height * params.width * PIXEL
    beside = COPIES * pictures + remembered(params.optimizer, pictures)
    beside += most * sum(map(sorted_bytes, sorted_in_step[-1]))
    return Work(passes, pixels, layers_of(params, model), at_once, more, beside)


def _sorted(size: Size, params: TextureSynthesisParams, model: VisionModel) -> list[float]:
    """Return the positions of each layer, and of colours, whose distributions are compared."""
    if params.method == "gram":
        return []
    area = float(size[0] * size[1])
    colours = [area / side**2 for side in COLOURS]
    return [*colours, *(model.positions(name, area) for name in layers_of(params, model))]


@technique(
    "texture-synthesis",
    family="synthesis",
    runs="job",
    source=(
        "Gatys et al. 2015, Texture Synthesis Using Convolutional Neural Networks; Heitz et al. "
        "2021, A Sliced Wasserstein Loss; Efros and Leung 1999; Efros and Freeman 2001"
    ),
    outputs={"picture": "the texture"},
    keeps_shape=False,
    work=_work,
)
def texture_synthesis(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "exemplar of the texture", Count(1, 8)],
    params: TextureSynthesisParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Make a texture of any size from an exemplar: by a network's features, or by copying.

    Growth and quilting take every pixel from the exemplar and need no network; matching features
    makes new pixels. Several exemplars make as many textures.
    """
    if params.method in COPYING:  # for which a picture is never too small for a network
        copied = [exemplar.fit(_longest(params)) for exemplar in image]
        copier = Copier(params, copied, progress, generator, checkpoints)
        return Outcome(
            numbered("picture", copier.copied()), {"sources": COPIED, "exemplars": _sides(copied)}
        )
    exemplars = [model.fit(i, _longest(params), pointer="/params/exemplar_size") for i in image]
    pictures: list[Image] = []
    facts: list[dict[str, Any]] = []
    groups = _together(exemplars, params)
    for number, group in enumerate(groups):
        weaver = Weaver(model, params, group, progress, generator, checkpoints)
        made, said = weaver.matched(number, len(groups))
        pictures += made
        facts.append(said)
    said = facts[0] if len(facts) == 1 else {"textures": facts}
    return Outcome(numbered("picture", pictures), said | {"exemplars": _sides(exemplars)})


def _sides(exemplars: Sequence[Image]) -> list[list[int]]:
    """Return height and width that exemplars were looked at."""
    return [[exemplar.height, exemplar.width] for exemplar in exemplars]


def _together(exemplars: Sequence[T], params: TextureSynthesisParams) -> list[list[T]]:
    """Group exemplars whose textures are made as one batch: L-BFGS has one step for all it has."""
    if params.optimizer == "adam":
        return [list(exemplars)]
    return [[exemplar] for exemplar in exemplars]
