"""Patches cover a square: none is empty, and none begins behind its end."""

from __future__ import annotations

import itertools
import math

import pytest

from lantern.artifact import Heatmap
from lantern.image import Image
from lantern.patches import patches
from lantern.run import run
from lantern.vision_model import VisionModel


@pytest.mark.parametrize("side", [1, 28, 32, 224])
@pytest.mark.parametrize(("patch", "stride"), [(8, 100), (16, 200), (1, 120), (4, 64), (1, 16)])
def test_patches_that_do_not_meet_begin_within(side: int, patch: int, stride: int) -> None:
    found = patches(side, min(patch, side), stride)
    begins = range(0, side, stride)
    assert [(box[0], box[2]) for box in found] == list(itertools.product(begins, begins))
    for top, bottom, left, right in found:
        assert top < bottom <= side
        assert left < right <= side


def test_patches_that_meet_reach_to_the_end_and_no_further() -> None:
    for side, patch, stride in itertools.product((5, 32, 120), (3, 4, 5), (1, 2, 3)):
        rows = [box[:2] for box in patches(side, patch, stride) if box[2] == 0]
        assert rows[-1][1] == side
        assert len(rows) == 1 + math.ceil((side - patch) / stride)


@pytest.mark.parametrize("more", [{}, {"exact": True}, {"coarse": 0.5}, {"layer": "conv2"}])
@pytest.mark.parametrize(("patch", "stride"), [(8, 100), (4, 30), (1, 31), (4, 11)])
def test_a_picture_may_be_covered_here_and_there(
    patch: int, stride: int, more: dict[str, object], small_model: VisionModel, photo: Image
) -> None:
    given = {"patch": patch, "stride": stride, "fill": "black", **more}
    result = run("occlusion", {"image": photo.resize(32, 32)}, given, model=small_model)
    assert isinstance(result.principal, Heatmap)
    assert bool(result.principal.values.isfinite().all())
    assert result.facts["patches"] == len(range(0, 32, stride)) ** 2
