"""DeepDream: a picture that shows more of what the network sees in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from lantern.animation import Frames
from lantern.artifact import Animation, Outcome, numbered
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize import tiles
from lantern.optimize.excitement import MOST_VECTORS, Excitement, guide_of
from lantern.optimize.objectives import matching
from lantern.optimize.octaves import Size, fitted
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.dreamer import WINDOW, Dream, Dreamer, octaves_of, size_of
from lantern.vision_model import VisionModel
from lantern.work import PIXEL, Sizes, Work

# What one run may make: pixels of all dreams, and of all frames, together.
MOST_PIXELS, MOST_FRAME_PIXELS = 2**23, 2**24
# Copies of a dream that are kept: itself, its picture, moved, gradients and their bands.
COPIES = 12


class DeepDreamParams(Params):
    """What to dream of, how deep and how long."""

    layer: str | None = Field(
        None, max_length=200, description="layer to excite; a middle one of the network if absent"
    )
    channels: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(
        (), max_length=64, description="channels to excite; all if empty"
    )
    steps: int = Field(12, ge=1, le=200, description="most steps at each octave")
    octaves: int = Field(
        4, ge=1, le=10, description="sizes the picture is dreamt at, small to full"
    )
    octave_scale: float = Field(1.4, ge=1.1, le=2.0, description="ratio of one size to the next")
    step_size: float = Field(
        0.02,
        gt=0,
        le=0.5,
        description="how far a step moves, in standard deviations of the gradient",
    )
    levels: int = Field(
        4,
        ge=1,
        le=8,
        description="bands of frequency that share a step equally; 1 leaves all of its grain",
    )
    jitter: int = Field(
        16,
        ge=0,
        le=64,
        description="largest shift before each step",
        json_schema_extra={"unit": "px"},
    )
    settle: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description=(
            f"end an octave once its objective gained less than this share in {WINDOW} steps; "
            "0 for never"
        ),
    )
    size: int = Field(
        512,
        ge=64,
        le=2048,
        description="longest side of the result",
        json_schema_extra={"unit": "px"},
    )
    tile_size: int = Field(
        512,
        ge=256,
        le=1024,
        multiple_of=64,
        description="side of the tiles that larger pictures are looked at in, a multiple of 64",
        json_schema_extra={"unit": "px"},
    )
    guide_size: int = Field(
        224,
        ge=64,
        le=1024,
        description="longest side the guide is looked at; larger means smaller details",
        json_schema_extra={"unit": "px"},
    )
    frames: int = Field(
        0, ge=0, le=240, description="frames of the zoom into the dream, itself the first"
    )
    zoom: float = Field(1.04, ge=1.0, le=1.5, description="how much each frame enlarges the last")
    frame_steps: int = Field(3, ge=1, le=20, description="steps at each frame")
    frame_ms: int = Field(
        80,
        ge=20,
        le=2000,
        description="how long a frame is shown",
        json_schema_extra={"unit": "ms"},
    )


def _work(params: DeepDreamParams, sizes: Sizes, model: VisionModel) -> Work:
    """Count a pass forward and one backward of each picture at each step, tiles with their halo."""
    photos = [fitted(size, params.size) for size in sizes.get("image", ())]
    _check(photos, params)
    layer, _ = _layer(model, params)
    octaves = [size for whole in photos for size in octaves_of(whole, params)]
    own = f"={model.input_size}, and send square pictures of no less, or choose another network"
    model.check_sizes(octaves, f"choose octaves=1 and size{own}", pointer="/params/size")
    guides = [fitted(guide, params.guide_size) for guide in sizes.get("guide", ())]
    model.check_sizes(guides, f"choose guide_size{own}", pointer="/params/guide_size")
    frames = photos * max(0, params.frames - 1)
    steps = len(octaves) * params.steps + len(frames) * params.frame_steps
    pixels = params.steps * sum(_seen(size, params) for size in octaves)
    pixels += params.frame_steps * sum(_seen(size, params) for size in frames)
    largest = max((min(photo[0] * photo[1], params.tile_size**2) for photo in photos), default=0)
    beside = COPIES * PIXEL * max((photo[0] * photo[1] for photo in photos), default=0)
    more = 0.0
    for height, width in guides:
        channels = len(params.channels) or model.channel_count(layer)
        vectors = min(MOST_VECTORS, model.positions(layer, height * width))
        more += model.positions(layer, pixels) * matching(vectors, channels)
        # positions from their mean, their best matches, and the products of both
        beside += 3 * 4 * channels * model.positions(layer, largest)
    return Work(2 * steps, pixels / max(1, steps), (layer,), largest, more, beside)


@technique(
    "deep-dream",
    title="DeepDream",
    family="synthesis",
    runs="job",
    source=(
        "Mordvintsev et al. 2015, Inceptionism: Going Deeper into Neural Networks, and its "
        "reference notebook"
    ),
    outputs={
        "picture": "the dream",
        "zoom": "frames that fall into the dream and dream on, where frames is above 0",
    },
    work=_work,
)
def deep_dream(
    model: VisionModel,
    image: Annotated[tuple[Image, ...], "picture to dream on", Count(1, 8)],
    guide: Annotated[Image | None, "picture whose features to dream of"],
    params: DeepDreamParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Amplify what a layer already sees in pictures, from coarse to fine.

    At each octave the detail dreamt so far is carried up and laid over the picture at that size.
    With a guide every position strives for that feature of the guide which matches it best.
    Each of several pictures becomes what it would be alone.
    """
    photos = [model.fit(photo, params.size) for photo in image]
    _check([size_of(photo) for photo in photos], params)
    layer, stride = _layer(model, params)
    with model.quick([layer]).capture([layer]) as features:
        excitement = Excitement(features, layer, stride, params.tile_size, params.channels)
        if guide is not None:
            seen = model.fit(guide, params.guide_size, pointer="/params/guide_size")
            found = guide_of(excitement, seen.pixels[None].to(model.device))
            excitement = dataclasses.replace(excitement, guide=found)
        dreamer = Dreamer(model.device, excitement, params, progress, generator, checkpoints)
        dreams = dreamer.dream(photos)
    pictures = [photo.repainted(dream.pixels) for photo, dream in zip(photos, dreams, strict=True)]
    films = [_film(place, dream, params) for place, dream in enumerate(dreams) if params.frames]
    first, *others = [dream.facts for dream in dreams]
    facts = {"layer": layer, **first, **({"others": others} if others else {})}
    return Outcome((*numbered("picture", pictures), *films), facts)


def _check(sizes: Sequence[Size], params: DeepDreamParams) -> None:
    """Refuse dreams that would take too much memory."""
    pixels = sum(height * width for height, width in sizes)
    if pixels > MOST_PIXELS:
        raise InvalidParameter(
            f"the dreams would have {pixels} pixels together; at most {MOST_PIXELS} are taken in "
            "one run: choose a smaller size, or send fewer pictures",
            pointer="/params/size",
        )
    if pixels * params.frames > MOST_FRAME_PIXELS:
        raise InvalidParameter(
            f"the frames would have {pixels * params.frames} pixels together; at most "
            f"{MOST_FRAME_PIXELS} are taken in one run: choose fewer frames or a smaller size",
            pointer="/params/frames",
        )


def _layer(model: VisionModel, params: DeepDreamParams) -> tuple[str, int]:
    """Return the layer to excite and how many pixels a position of it stands for."""
    layer = params.layer or model.dream_layer
    count = model.channel_count(layer)
    wrong = [channel for channel in params.channels if channel >= count]
    if wrong:
        raise InvalidParameter(
            f"layer {layer} has the channels 0 to {count - 1}, not {wrong[0]}",
            pointer="/params/channels",
        )
    return layer, model.stride(layer)


def _seen(size: Size, params: DeepDreamParams) -> int:
    """Return how many pixels the network sees at a step: tiles overlap."""
    return sum(tile.seen.area for tile in tiles.laid(size, params.tile_size))


def _film(place: int, dream: Dream, params: DeepDreamParams) -> Animation:
    name = "zoom" if place == 0 else f"zoom-{place + 1}"
    return Animation(name, Frames(dream.frames), params.frame_ms)
