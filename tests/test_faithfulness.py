"""The evidence for a map, against brute force and maps that are known to be good or bad."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lantern.artifact import Heatmap
from lantern.faithfulness import curves, evidence, randomised, rank_correlation
from lantern.image import Image
from lantern.optimize.regularize import blur
from lantern.run import run
from lantern.vision_model import VisionModel

CAT = 285


@pytest.fixture
def pixels(photo: Image) -> Tensor:
    return photo.resize(224, 224).pixels[None]


def by_hand(
    model: VisionModel, pixels: Tensor, field: Tensor, target: int, steps: int
) -> tuple[float, float]:
    """Put in and delete pixels one share after the other, as the paper describes it."""
    order = field.flatten().argsort(descending=True, stable=True)
    dim = blur(pixels, 5.0)
    areas = []
    for before, after in ((dim, pixels), (pixels, model.grey.expand_as(pixels))):
        at = before.clone().view(1, 3, -1)
        seen = []
        for step in range(steps + 1):
            count = round(step * len(order) / steps)
            at[..., order[:count]] = after.reshape(1, 3, -1)[..., order[:count]]
            with torch.inference_mode():
                seen.append(float(model.logits(at.view_as(pixels)).softmax(1)[0, target]))
        areas.append((sum(seen) - (seen[0] + seen[-1]) / 2) / steps)
    return areas[0], areas[1]


def test_areas_equal_those_by_hand(model: VisionModel, pixels: Tensor) -> None:
    chance = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 224, 224, generator=chance)
    inserted, deleted = curves(model, pixels, maps, CAT, 4)
    for number, field in enumerate(maps):
        wanted = by_hand(model, pixels, field, CAT, 4)
        assert float(inserted[number]) == pytest.approx(wanted[0], abs=1e-5)
        assert float(deleted[number]) == pytest.approx(wanted[1], abs=1e-5)


def test_one_step_is_a_straight_line(model: VisionModel, pixels: Tensor) -> None:
    with torch.inference_mode():
        ends = model.logits(torch.cat([pixels, blur(pixels, 5.0)])).softmax(1)[:, CAT]
    inserted, _ = curves(model, pixels, torch.rand(1, 224, 224), CAT, 1)
    assert float(inserted[0]) == pytest.approx(float(ends.mean()), abs=1e-6)


def test_a_good_map_beats_its_opposite_and_chance(model: VisionModel, pixels: Tensor) -> None:
    image = Image(pixels[0])
    found = run("grad-cam", {"image": image}, {"relu": False}, model=model).principal
    assert isinstance(found, Heatmap)
    good = evidence(model, pixels, found.values, CAT, steps=10)
    bad = evidence(model, pixels, -found.values, CAT, steps=10)
    assert good["insertion"]["auc"] > bad["insertion"]["auc"] + 0.1
    assert good["deletion"]["auc"] < bad["deletion"]["auc"]
    assert good["insertion"]["auc"] > good["insertion"]["random"]
    assert good["insertion"].keys() == {"auc", "random", "centre"}
    assert good["insertion"]["centre"] == bad["insertion"]["centre"]


@pytest.mark.parametrize("what", ["head", "all"])
def test_random_networks_are_copies(model: VisionModel, pixels: Tensor, what: str) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    twin = randomised(model, what)  # type: ignore[arg-type]
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    changed = [n for n, v in twin.network.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) == 1 if what == "head" else len(changed) > 20
    with torch.inference_mode():
        assert not torch.equal(twin.logits(pixels), model.logits(pixels))
    # another time the same
    again = randomised(model, what).network.state_dict()  # type: ignore[arg-type]
    assert all(torch.equal(v, again[n]) for n, v in twin.network.state_dict().items())


def test_ranks_are_correlated_as_scipy_does() -> None:
    chance = torch.Generator().manual_seed(0)
    one = torch.rand(20, 20, generator=chance).round(decimals=1)  # with ties
    other = (one + torch.rand(20, 20, generator=chance)).round(decimals=1)
    wanted = spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic
    assert rank_correlation(one, other) == pytest.approx(wanted, abs=1e-9)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, torch.zeros(20, 20)) == 0


def test_evidence_is_worked_out_only_for_who_reads_it(
    model: VisionModel, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    plain = VisionModel.logits

    def count(self: VisionModel, pixels: Tensor) -> Tensor:
        nonlocal passes
        passes += len(pixels)
        return plain(self, pixels)

    monkeypatch.setattr(VisionModel, "logits", count)
    result = run("grad-cam", {"image": photo}, {"evidence": 4}, model=model)
    result.principal.encode("image/png")
    assert result.facts["layer"]
    assert result.facts["seconds"] > 0
    assert passes == 1
    assert result.facts["insertion"]
    assert passes == 1 + 3 + 2 * 3 * 3
    assert "deletion" in dict(result.facts)
    assert passes == 1 + 3 + 2 * 3 * 3


def test_no_evidence_is_given_where_none_is_asked_for(model: VisionModel, photo: Image) -> None:
    facts = run("grad-cam", {"image": photo}, {"evidence": 0}, model=model).facts
    assert not {"insertion", "deletion", "sanity"} & set(facts)


def test_sanity_tells_gradients_from_what_ignores_the_network(
    model: VisionModel, photo: Image
) -> None:
    def score(name: str, **params: object) -> dict[str, float]:
        given = {"target": CAT, "evidence": 0, "sanity": True, **params}
        found: dict[str, float] = run(name, {"image": photo}, given, model=model).facts["sanity"]
        return found

    gradient, guided_by_edges = score("saliency"), score("guided-backprop")
    assert all(0 <= value <= 1 for value in (gradient | guided_by_edges).values())
    assert gradient["all_randomised"] <= 0.4
    # the well-known failure: who explains nothing of the last layer is hardly changed by it
    assert guided_by_edges["head_randomised"] >= 0.95 > gradient["head_randomised"] + 0.3
    guided = run("guided-backprop", {"image": photo}, {"evidence": 0}, model=model).facts
    assert "Adebayo" in guided["warnings"][0]
