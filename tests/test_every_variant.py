"""What holds for the other ways of a technique, which its defaults do not take."""

from __future__ import annotations

from typing import Any

import pytest

from lantern import registry
from lantern.artifact import Result
from lantern.image import Image
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.test_every_technique import Boom, cheap, failing, pictures, trace
from tests.transformers import tiny_vit

LAYER = "_blocks.8"
FEW = {"patch": 20, "stride": 22}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact var-grad": ("saliency", {"method": "var-grad", "exact": True}),
    "exact integrated gradients": (
        "integrated-gradients", {"exact": True, "baseline": "blur", "most_steps": 4}
    ),
    **{
        method: ("grad-cam", {"method": method, "channels": 4})
        for method in (
            "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "score-cam", "ablation-cam",
            "guided-grad-cam",
        )
    },
    "early grad-cam": (
        "grad-cam", {"method": "grad-cam", "layer": LAYER, "relu": False, "fit": "crop"}
    ),
    "deconvnet": ("guided-backprop", {"rule": "deconvnet"}),
    "neuron": ("guided-backprop", {"layer": LAYER}),
    "neuron by deconvnet": ("guided-backprop", {"layer": LAYER, "channel": 3, "rule": "deconvnet"}),
    "occlusion of a neuron": ("occlusion", {"layer": LAYER, "channel": 3, **FEW}),
    "coarse occlusion": ("occlusion", {"coarse": 0.5, **FEW}),
    "exact occlusion": ("occlusion", {"exact": True, "fill": "blur", "score": "logit", **FEW}),
    "segment by saliency": ("segment", {"method": "saliency"}),
}  # fmt: skip

OF_A_TRANSFORMER: dict[str, tuple[str, dict[str, Any]]] = {
    "rollout": ("attention-map", {"method": "rollout"}),
    "grad-cam of tokens": ("grad-cam", {"method": "ablation-cam", "channels": 4}),
    "compiled rise": ("rise", {"masks": 128, "error": 1e-6}),
    "refused methods": ("compare-methods", {"methods": ["deconvnet", "attention-map"]}),
}


def judged(name: str, params: dict[str, Any], model: VisionModel, photo: Image) -> Result:
    """Run a variant and have everything found out about its map."""
    technique = registry.find(name)
    given = {slot: several[:1] for slot, several in pictures(technique, photo).items()}
    chosen = cheap(technique) | {"evidence": 2, "sanity": True} | params
    result = run(name, given, chosen, model=model)
    facts = dict(result.facts)
    found = next(iter(facts["methods"].values())) if "methods" in facts else facts
    assert "refused" in found or found["sanity"].keys() == {"head_randomised", "all_randomised"}
    return result


def assert_clean(name: str, params: dict[str, Any], model: VisionModel, photo: Image) -> None:
    """Hold that a variant leaves no trace and finds something."""
    before = trace(model)
    result = judged(name, params, model, photo)
    assert trace(model) == before
    assert not result.facts.get("degenerate", False)
    assert all(artifact.is_finite() for artifact in result.artifacts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_leaves_no_trace(variant: str, near: VisionModel, photo: Image) -> None:
    assert_clean(*VARIANTS[variant], near, photo)


@pytest.mark.parametrize("variant", OF_A_TRANSFORMER)
def test_a_variant_leaves_no_trace_in_a_transformer(variant: str, photo: Image) -> None:
    assert_clean(*OF_A_TRANSFORMER[variant], tiny_vit(), photo)


def assert_clean_after_a_failure(
    name: str, params: dict[str, Any], at: int, model: VisionModel, photo: Image
) -> None:
    """Hold that a variant leaves no trace in a network that fails in one of its passes."""
    before = trace(model)
    with failing(model, at) as passes, pytest.raises(Boom):
        judged(name, params, model, photo)
    assert len(passes) == at
    assert trace(model) == before


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_fails_in_a_variant_is_left_clean(
    variant: str, at: int, near: VisionModel, photo: Image
) -> None:
    assert_clean_after_a_failure(*VARIANTS[variant], at, near, photo)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("variant", OF_A_TRANSFORMER)
def test_a_transformer_that_fails_in_a_variant_is_left_clean(
    variant: str, at: int, photo: Image
) -> None:
    assert_clean_after_a_failure(*OF_A_TRANSFORMER[variant], at, tiny_vit(), photo)
