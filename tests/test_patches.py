"""Patches cover a square: none is empty, and none begins behind its end."""

from __future__ import annotations

import itertools
import math

import pytest

from lantern.artifact import Heatmap
from lantern.image import Image
from lantern.patches import patches
from lantern.run import run
from lantern.techniques.occlusion import OcclusionParams
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


@pytest.mark.parametrize(
    ("side", "patch", "stride"), [(224, 32, 16), (64, 9, 5), (32, 5, 2), (28, 4, 2), (4, 1, 1)]
)
def test_usual_patches_are_a_share_of_the_view(side: int, patch: int, stride: int) -> None:
    assert OcclusionParams().steps_over(side) == (patch, stride)
    assert OcclusionParams(patch=7).steps_over(side) == (7, stride)
    assert OcclusionParams(stride=3).steps_over(side) == (patch, 3)


@pytest.mark.parametrize("side", [28, 32])
def test_the_defaults_explain_small_networks(
    side: int, small_model: VisionModel, photo: Image
) -> None:
    model = VisionModel(
        "smaller", small_model.network, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=side,
        resize_size=side, labels=(), cam_layer="conv2",
    )  # fmt: skip
    facts = run("occlusion", {"image": photo}, {"evidence": 0}, model=model).facts
    assert not facts["degenerate"]
    assert facts["patches"] == len(patches(side, facts["patch"], facts["stride"])) > 100
    assert facts["estimate"]["passes"] == 1 + facts["patches"]
    given = {"methods": ["occlusion", "saliency"], "evidence": 0}
    compared = run("compare-methods", {"image": photo}, given, model=model).facts
    assert "refused" not in compared["methods"]["occlusion"]
