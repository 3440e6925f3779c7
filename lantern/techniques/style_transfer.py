"""Neural style transfer: a photograph repainted by optimisation, any painting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from lantern.artifact import Outcome, numbered
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.likeness import count_of_views, is_kept, seen_at_once, seen_in_step
from lantern.optimize.octaves import Size, fitted
from lantern.optimize.optimizers import Rule, remembered, takes_turns
from lantern.optimize.style import Statistic, sorted_bytes, sorting
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.painter import (
    Painter,
    content_layers_of,
    layers_of,
    painting_size,
    shifts_of,
    sizes_of,
    style_layers_of,
)
from lantern.vision_model import VisionModel
from lantern.work import PIXEL, Sizes, Work

LayerName = Annotated[str, Field(min_length=1, max_length=200)]


class StyleTransferParams(Params):
    """How long, how large, and what to weigh."""

    steps: int = Field(60, ge=1, le=2000, description="most optimisation steps at each scale")
    size: int = Field(
        384,
        ge=64,
        le=4096,
        description="longest side of the result",
        json_schema_extra={"unit": "px"},
    )
    tile_size: int = Field(
        1024,
        ge=256,
        le=2048,
        multiple_of=64,
        description="side of the tiles that larger pictures are looked at in, a multiple of 64",
        json_schema_extra={"unit": "px"},
    )
    style_scale: float = Field(
        1.0,
        ge=0.1,
        le=4,
        description="longest side of the painting to that of the result; more is broader strokes",
    )
    scales: int = Field(
        3, ge=1, le=5, description="sizes the picture is painted at, each 0.7 of the next"
    )
    shifts: int | None = Field(
        None,
        ge=1,
        le=16,
        description="places the picture is looked at in, in turn, a few pixels apart; 1 is the "
        "paper's way, which is quicker and paints grain with some networks; if absent 8, and 1 for "
        "l-bfgs, which needs the same look at every step",
    )
    style_weight: float = Field(1.0, ge=0, le=100, description="weight of the paintings' hand")
    content_weight: float = Field(
        0.2, ge=0, le=100, description="weight of what the photograph shows"
    )
    style_weights: tuple[Annotated[float, Field(gt=0, le=100)], ...] = Field(
        (), max_length=8, description="share of each painting; equal if empty"
    )
    tv_weight: float = Field(1.0, ge=0, le=100, description="weight of the smoothness of pixels")
    statistic: Statistic = Field(
        "gram", description="what of the features is a style: their Gram matrices or distributions"
    )
    color: Literal["style", "luminance", "histogram"] = Field(
        "style",
        description=(
            "whose colours: the painting's; the photograph's, by painting only its luminance; or "
            "the photograph's, by giving the painting its histogram first"
        ),
    )
    smoothing: bool = Field(
        False, description="softmax over the channels; for residual networks that paint grain"
    )
    style_layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers of the style; the network's own choice if empty"
    )
    style_layer_weights: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (), max_length=16, description="share of each of these layers in the style; equal if empty"
    )
    content_layers: tuple[LayerName, ...] = Field(
        (), max_length=16, description="layers of the content; the network's own choice if empty"
    )
    optimizer: Rule = Field(
        "adam",
        description="how steps are taken; l-bfgs, the paper's way, looks from one place and paints "
        "several photographs one after the other",
    )
    learning_rate: float = Field(
        0.015, gt=0, le=1, description="Adam's rate, in pixel units of 0..1"
    )
    init: Literal["content", "noise"] = Field(
        "content", description="picture to start from where none is given as start"
    )


# What one run may paint, and what L-BFGS may: it keeps forty copies. Pixels of all pictures.
MOST_PIXELS, MOST_LBFGS_PIXELS = 2**24, 2**22
# Copies of the pictures, beside those the optimiser has: content, start, sum of the pyramid,
# clipped, moved, smoothness and gradients.
COPIES = 16
# The longest side a painting is looked at with, px.
MOST_PAINTING = 4096


def _work(params: StyleTransferParams, sizes: Sizes, model: VisionModel) -> Work:
    photos = [fitted(size, params.size) for size in sizes.get("image", ())]
    _check_shifts(params)
    _check_size(photos, params)
    _check_layers(params, model)
    _check_shown(photos, sizes, params, model)
    paintings, layers = len(sizes.get("style", ())), layers_of(params, model)
    content = content_layers_of(params, model)
    pixels, passes, at_once, more, beside = 0.0, 0, 0.0, 0.0, 0.0
    for places in _batches(photos, params):
        count, photo = len(places), photos[places[0]]
        for size in sizes_of(photo, params):
            # the content of every view is looked at once
            views = _views(size, params)
            wanted = model.held(content, count * seen_at_once(size, params.tile_size))
            step = seen_in_step(
                size, params.tile_size, has_drawing=True, is_kept=is_kept(wanted, views)
            )
            pixels += count * (params.steps * step + views * size[0] * size[1])
            pixels += count * paintings * _painting_area(size, params)
            passes += count * (2 * params.steps + views + paintings)
            more += count * params.steps * sum(map(sorting, _sorted(size, params, model)))
        at_once = max(at_once, count * seen_at_once(photo, params.tile_size))
        beside = max(beside, _beside(count, photo, sizes, params, model))
    return Work(passes, pixels / max(1, passes), layers, at_once, more, beside)


def _views(size: Size, params: StyleTransferParams) -> int:
    """Return how many ways pictures of a size are looked at, in turn."""
    turns = takes_turns(params.optimizer)
    return count_of_views(shifts_of(params), size=size, side=params.tile_size, turns=turns)


def _sorted(size: Size, params: StyleTransferParams, model: VisionModel) -> list[float]:
    """Return the positions of each layer whose distributions are compared in a step."""
    if params.statistic == "gram":
        return []
    return [model.positions(n, size[0] * size[1]) for n in style_layers_of(params, model)]


def _beside(
    count: int, photo: Size, sizes: Sizes, params: StyleTransferParams, model: VisionModel
) -> float:
    """Return the bytes kept beside the network's outputs while photographs of a size are painted.

    That is what is wanted of their content, in one view or in all, and its error; the style's
    layers weighed by each mask, and made smooth; and the pictures with all that is made of them.
    """
    seen = count * seen_at_once(photo, params.tile_size)
    wanted = model.held(content_layers_of(params, model), seen)
    views = _views(photo, params)
    keeps_all = max(photo) <= params.tile_size and is_kept(wanted, views)
    hands = len(sizes.get("mask", ())) + 2 * params.smoothing
    pictures = count * photo[0] * photo[1] * PIXEL
    return (
        wanted * (views + 1 if keeps_all else 2)
        + hands * model.held(style_layers_of(params, model), seen)
        + count * sum(map(sorted_bytes, _sorted(photo, params, model)))
        + COPIES * pictures
        + remembered(params.optimizer, 4 / 3 * pictures)  # all levels of the pyramid
    )


@technique(
    "style-transfer",
    title="Neural style transfer",
    family="synthesis",
    runs="job",
    source=(
        "Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks, section 2; "
        "Gatys et al. 2017, Controlling Perceptual Factors in Neural Style Transfer"
    ),
    outputs={"picture": "the photograph in the painting's hand"},
    work=_work,
)
def style_transfer(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "photograph whose content is kept", Count(1, 8)],
    style: Annotated[tuple[Image, ...], "painting whose hand is taken", Count(1, 8)],
    mask: Annotated[
        tuple[Image, ...], "where each painting goes, white on black, one for each", Count(0, 8)
    ],
    start: Annotated[Image | None, "picture to start from"],
    params: StyleTransferParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Repaint photographs in the hand of any paintings, by optimising their pixels.

    Several paintings are blended by their weights or, with masks, each has its region; what lies
    under no mask stays the photograph. Losses are relative to their targets, so that the same
    weights serve every network and size. Two departures from the paper keep networks with strided
    first layers from painting grids and coloured grain: the picture is a sum of a pyramid's levels,
    and each step looks at it shifted by a few pixels.
    """
    _check(params, style, mask)
    _check_shifts(params)
    photos = [model.fit(photo, params.size) for photo in image]
    sizes = [(photo.height, photo.width) for photo in photos]
    _check_size(sizes, params)
    _check_layers(params, model)
    batches = _batches(sizes, params)
    pictures: dict[int, Image] = {}
    facts: list[dict[str, Any]] = []
    painter = Painter(model, params, style, mask, start, progress, generator, checkpoints)
    for number, places in enumerate(batches):
        painted, said = painter.paint([photos[p] for p in places], number, len(batches))
        pictures |= dict(zip(places, painted, strict=True))
        facts.append(said)
    made = numbered("picture", (pictures[place] for place in range(len(photos))))
    return Outcome(made, facts[0] if len(facts) == 1 else {"batches": facts})


def _check(params: StyleTransferParams, style: Sequence[Image], mask: Sequence[Image]) -> None:
    if params.style_weights and len(params.style_weights) != len(style):
        raise InvalidParameter(
            f"there are {len(params.style_weights)} weights for {len(style)} paintings; "
            "give one for each or none",
            pointer="/params/style_weights",
        )
    if mask and len(mask) != len(style):
        raise InvalidParameter(
            f"there are {len(mask)} masks for {len(style)} paintings; give one for each or none",
            pointer="/inputs/mask",
        )
    if mask and params.statistic != "gram":
        raise InvalidParameter("masks need the statistic gram", pointer="/params/statistic")


def _check_shifts(params: StyleTransferParams) -> None:
    if shifts_of(params) > 1 and not takes_turns(params.optimizer):
        raise InvalidParameter(
            f"{params.optimizer} needs the same look at every step, not {params.shifts} in turn: "
            "choose 1, or the optimizer adam",
            pointer="/params/shifts",
        )


def _painting_area(size: Size, params: StyleTransferParams) -> float:
    return (max(size) * params.style_scale) ** 2


def _check_layers(params: StyleTransferParams, model: VisionModel) -> None:
    """Refuse layers the network lacks, for the style those without positions, and odd weights."""
    layers, weights = style_layers_of(params, model), params.style_layer_weights
    if weights and len(weights) != len(layers):
        raise InvalidParameter(
            f"there are {len(weights)} weights for the {len(layers)} layers of the style, "
            f"{', '.join(layers)}; give one for each or none",
            pointer="/params/style_layer_weights",
        )
    for name in content_layers_of(params, model):
        model.shape(name, pointer="/params/content_layers")
    for name in style_layers_of(params, model):
        model.check_positions(name, pointer="/params/style_layers")


def _check_size(photos: Sequence[Size], params: StyleTransferParams) -> None:
    """Refuse pictures that would take too much memory."""
    pixels = sum(height * width for height, width in photos)
    most = MOST_LBFGS_PIXELS if params.optimizer == "l-bfgs" else MOST_PIXELS
    if pixels > most:
        raise InvalidParameter(
            f"the pictures would have {pixels} pixels together; at most {most} are painted in one "
            f"run by {params.optimizer}: choose a smaller size, or send fewer pictures",
            pointer="/params/size",
        )
    longest = max((max(size) for size in photos), default=0)
    if longest * params.style_scale > MOST_PAINTING:
        raise InvalidParameter(
            f"the painting would be looked at with {longest * params.style_scale:.0f} px a side; "
            f"at most {MOST_PAINTING} are: choose a smaller style_scale or size",
            pointer="/params/style_scale",
        )
    largest = longest * max(1.0, params.style_scale)
    if params.statistic == "sliced-wasserstein" and largest > params.tile_size:
        raise InvalidParameter(
            f"a picture or painting of {largest:.0f} px is looked at in tiles, which needs the "
            "statistic gram: choose it, a smaller size or larger tiles",
            pointer="/params/statistic",
        )


def _check_shown(
    photos: Sequence[Size], sizes: Sizes, params: StyleTransferParams, model: VisionModel
) -> None:
    """Refuse sizes that the network does not take, of photographs or paintings, at any scale."""
    shown = [size for photo in photos for size in sizes_of(photo, params)]
    given = sizes.get("style", ())
    paintings = [painting_size(painting, size, params) for painting in given for size in shown]
    model.check_sizes(
        [*shown, *paintings],
        f"choose scales=1, style_scale=1 and size={model.input_size}, and send square pictures of "
        "no less, or choose another network",
        pointer="/params/size",
    )


def _batches(sizes: Sequence[Size], params: StyleTransferParams) -> list[list[int]]:
    """Group the places of photographs of one size, in the order of the first of each.

    Where a photograph's own colours count, each is painted alone; so it is by L-BFGS, whose step
    is one for all it changes.
    """
    are_together = params.color == "style" and takes_turns(params.optimizer)
    groups: dict[object, list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size if are_together else place, []).append(place)
    return list(groups.values())
