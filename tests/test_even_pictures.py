"""Of a picture in which there is nothing to see, a map is no picture of rounding."""

from __future__ import annotations

from typing import Any

import pytest

from lantern.artifact import Heatmap, Rendering
from lantern.image import Image
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.transformers import tiny_vit

NOTHING: dict[str, tuple[str, dict[str, Any]]] = {
    "shares": ("integrated-gradients", {}),
    "exact shares": ("integrated-gradients", {"exact": True}),
    "shares over a blur": ("integrated-gradients", {"baseline": "blur"}),
    "rise": ("rise", {"masks": 64}),
    "occlusion": ("occlusion", {}),
    "logits under patches": ("occlusion", {"score": "logit"}),
    "their mean": ("occlusion", {"score": "logit", "fill": "mean"}),
}
SOME = {name: given for name, given in NOTHING.items() if name not in ("exact shares", "rise")}


@pytest.fixture(params=["small", "tiny-vit"])
def network(request: pytest.FixtureRequest, small_model: VisionModel) -> VisionModel:
    return small_model if request.param == "small" else tiny_vit()


def grey(model: VisionModel) -> Image:
    """Return a picture of the network's grey."""
    return Image(model.grey.reshape(-1, 1, 1).expand(3, 40, 48).clone())


@pytest.mark.parametrize("case", NOTHING)
def test_a_map_of_rounding_is_degenerate_and_dark(case: str, network: VisionModel) -> None:
    name, params = NOTHING[case]
    params = params | {"evidence": 2, "sanity": True}
    result = run(name, {"image": grey(network)}, params, model=network)
    assert result.facts["degenerate"]
    assert "insertion" not in result.facts
    assert result.facts["sanity"] == {"head_randomised": None, "all_randomised": None}
    heatmap = result.principal
    assert isinstance(heatmap, Heatmap)
    assert not heatmap.values.any()
    drawn = heatmap.drawn(Rendering(overlay=False)).pixels * 255
    assert drawn.amax((1, 2)).round().tolist() == drawn.amin((1, 2)).round().tolist() == [0, 0, 4]


@pytest.mark.parametrize("case", SOME)
def test_the_least_that_is_there_is_seen(case: str, network: VisionModel) -> None:
    name, params = SOME[case]
    pixels = grey(network).pixels.clone()
    pixels[:, 12:24, 20:32] += 2 / 255
    result = run(name, {"image": Image(pixels)}, {"evidence": 0, **params}, model=network)
    assert not result.facts["degenerate"]


@pytest.mark.parametrize("baseline", ["grey", "blur"])
def test_shares_in_nothing_add_up_at_once(baseline: str, network: VisionModel) -> None:
    given = {"baseline": baseline, "steps": 6, "evidence": 0}
    facts = run("integrated-gradients", {"image": grey(network)}, given, model=network).facts
    assert facts["completeness"]["steps"] == 6
    assert facts["completeness"]["gap"] <= 0.01
    assert "warnings" not in facts
