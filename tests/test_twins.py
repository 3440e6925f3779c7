"""A network and its random twins are asked the same, so that maps differ by the weights alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lantern.artifact import Heatmap, Result
from lantern.checkpoint import Checkpoints
from lantern.faithfulness import RANDOMISED, What, randomised, rank_correlation
from lantern.image import Image
from lantern.progress import Step
from lantern.run import run
from lantern.techniques import explained
from lantern.vision_model import VisionModel

CHANCE: dict[str, tuple[str, dict[str, Any]]] = {
    # as the few of a random network are not compiled
    "smooth-grad": ("saliency", {"method": "smooth-grad", "samples": 6, "exact": True}),
    "var-grad": ("saliency", {"method": "var-grad", "samples": 6, "exact": True}),
    "rise": ("rise", {"masks": 64}),
}


class Killed(Exception):
    """The process dies here."""


@pytest.fixture
def picture() -> Image:
    return Image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("case", CHANCE)
@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_twin_of_the_same_weights_has_the_same_map(
    case: str,
    is_resumed: bool,
    small_model: VisionModel,
    picture: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def same(model: VisionModel, what: What) -> VisionModel:
        return model.copy()

    monkeypatch.setattr(explained, "randomised", same)
    name, params = CHANCE[case]
    saved: list[bytes] = []

    def go(checkpoints: Checkpoints, watch: Any) -> dict[str, Any]:
        given = params | {"sanity": True, "evidence": 0}
        return dict(
            run(
                name, {"image": picture}, given, model=small_model, seed=5, progress=watch,
                checkpoints=checkpoints,
            ).facts
        )  # fmt: skip

    def die(step: Step) -> None:
        if saved:
            raise Killed

    if is_resumed:
        with pytest.raises(Killed):
            go(Checkpoints(saved.append, every_s=0.0, most_cost=1e9), die)
    facts = go(Checkpoints(saved=saved[-1] if saved else None), lambda step: None)
    assert facts["sanity"]["head_randomised"] == pytest.approx(1, abs=1e-3)
    assert facts["sanity"]["all_randomised"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "own"), [("guided-backprop", {"rule": "guided"}), ("occlusion", {"patch": 6})]
)
@pytest.mark.parametrize("layer", ["conv2", "fc"])
def test_twins_are_asked_for_the_same_neuron(
    name: str, own: dict[str, Any], layer: str, small_model: VisionModel, picture: Image
) -> None:
    def ask(model: VisionModel, **params: Any) -> Result:
        given = {"layer": layer, "evidence": 0, "target": 1} | own | params
        return run(name, {"image": picture}, given, model=model)

    def raw(result: Result) -> torch.Tensor:
        assert isinstance(result.principal, Heatmap)
        assert result.principal.raw is not None
        return result.principal.raw

    found = ask(small_model, sanity=True)
    index = found.facts["neuron"]["index"]
    chosen = dict(zip(("channel", "row", "column"), index, strict=False))
    is_other = []
    for what in RANDOMISED:
        twin = randomised(small_model, what)
        is_other.append(ask(twin).facts["neuron"]["index"] != index)
        alike = rank_correlation(raw(found), raw(ask(twin, **chosen)))
        assert alike is not None
        wanted = pytest.approx(abs(alike), abs=1e-4)
        assert found.facts["sanity"][f"{what}_randomised"] == wanted
    assert any(is_other), "the twins would have chosen another one"
