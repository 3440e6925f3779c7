"""What style networks take: operations and memory for each pixel, and for a call that paints."""

from __future__ import annotations

import functools

from lantern.optimize.octaves import fitted
from lantern.optimize.tiles import HALO
from lantern.styles.network import Architecture, made
from lantern.styles.painting import SIDE, WHOLE, PaintingParams, check_strokes
from lantern.work import WHOLE as OUTPUT
from lantern.work import LayerFacts, Sizes, Work, survey

SURVEYED = 64
# What is done beside the network for each pixel, in operations of which the network does as many in
# that time: reading, shrinking and writing; matching histograms; for strokes of another size
# enlarging what is painted.
BESIDE, MATCHING, ENLARGING = 10e3, 12e3, 20e3


def operations() -> float:
    """Return what painting takes for each pixel, forward."""
    return _surveyed().operations / SURVEYED**2


def tape() -> float:
    """Return how many bytes a gradient through a network needs for each pixel."""
    return _surveyed().tape / SURVEYED**2


@functools.cache
def _surveyed() -> LayerFacts:
    return survey(made(Architecture()), 3, SURVEYED)[OUTPUT]


def painting_work(params: PaintingParams, sizes: Sizes, model: object) -> Work:
    """Say what painting a photograph takes, or all frames of an animation.

    Raises:
        InvalidParameter: the network does not paint as large as is asked for.
    """
    total = 0.0
    for height, width in sizes["image"]:
        shown = fitted((height, width), params.size)
        check_strokes(params, max(shown))
        pixels = shown[0] * shown[1]
        painted = pixels / params.style_scale**2
        total += pixels * (BESIDE + MATCHING * (params.color == "histogram"))
        total += painted * ENLARGING * (params.style_scale != 1)
        if painted > WHOLE:  # in tiles, which overlap
            painted *= (SIDE / (SIDE - 2 * HALO)) ** 2
        total += painted * operations()
    return Work(len(sizes["image"]), 0, more=total)
