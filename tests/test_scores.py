"""Networks of one class, or of classes that do not exclude each other: each has its own sigmoid."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lantern.artifact import Heatmap, Table
from lantern.brought import Brought, build, check_weights
from lantern.errors import InvalidParameter
from lantern.faithfulness import curves
from lantern.image import Image
from lantern.networks import Networks
from lantern.optimize.attack import Aim
from lantern.optimize.regularize import blur
from lantern.run import run, validate
from lantern.scores import Scores, probabilities
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo

SIDE = 32
SAID: dict[str, Any] = {"architecture": "squeezenet1_1", "labels": ["defect"], "input_size": 64}
LOGITS = torch.tensor([[2.0, 0.0, -1.0, 1.0], [0.5, 3.0, 0.0, 1.0]])


class Brightness(nn.Module):
    """Looks how bright the upper half is, for each class by a factor of its own."""

    def __init__(self, factors: tuple[float, ...]) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 1, 1, bias=False)
        self.see.weight.data.fill_(1 / 3)
        self.tell = nn.Linear(1, len(factors))
        self.tell.weight.data = torch.tensor(factors)[:, None]
        self.tell.bias.data.fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        told: Tensor = self.tell(self.see(x)[:, 0, : SIDE // 2].mean((1, 2))[:, None])
        return told


def seeing(*factors: float, scores: Scores = "sigmoid") -> VisionModel:
    return VisionModel(
        "brightness", Brightness(factors), mean=(0.0,) * 3, std=(1.0,) * 3, input_size=SIDE,
        resize_size=SIDE, labels=tuple(map(str, range(len(factors)))), cam_layer="see",
        scores=scores,
    )  # fmt: skip


@pytest.fixture
def bright() -> Image:
    return Image(0.4 + 0.6 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)))


def logits_of(model: VisionModel, image: Image) -> list[float]:
    with torch.inference_mode():
        found: list[float] = model.logits(image.pixels[None])[0].tolist()
    return found


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_sigmoid_is_each_class_for_itself() -> None:
    assert torch.equal(probabilities(LOGITS, "softmax"), LOGITS.softmax(1))
    assert probabilities(LOGITS, "sigmoid")[0, 2].item() == pytest.approx(sigmoid(-1))


class TestOneClass:
    @pytest.mark.parametrize("name", ["occlusion", "rise"])
    def test_it_can_be_explained(self, name: str, bright: Image) -> None:
        params = {"patch": 8, "stride": 8, "fill": "black"} if name == "occlusion" else {}
        result = run(name, {"image": bright}, params, model=seeing(3.0))
        assert not result.facts["degenerate"]
        assert isinstance(result.principal, Heatmap)
        upper, lower = result.principal.values.chunk(2)
        assert float(upper.mean()) > 4 * abs(float(lower.mean()))

    def test_its_probability_is_the_sigmoid(self, bright: Image) -> None:
        model = seeing(3.0)
        table = run("classify", {"image": bright}, {}, model=model).principal
        assert isinstance(table, Table)
        (row,) = table.rows
        assert row["probability"] == pytest.approx(sigmoid(*logits_of(model, bright)), abs=1e-6)

    def test_it_can_be_taken_for_nothing_else(self, bright: Image) -> None:
        with pytest.raises(InvalidParameter, match="one class") as caught:
            run("fooling-image", {"image": bright}, {}, model=seeing(3.0))
        assert caught.value.pointer == "/params/model"

    def test_it_is_brought_with_sigmoid_alone(self, tmp_path: Path) -> None:
        brought: Brought = validate(Brought, SAID | {"scores": "sigmoid"})
        weights = safetensors.torch.save(build(brought).state_dict())
        softmax: Brought = validate(Brought, SAID)
        with pytest.raises(InvalidParameter, match="set scores to sigmoid") as caught:
            check_weights(softmax, weights)
        assert caught.value.pointer == "/model/scores"
        networks = Networks(tmp_path)
        model = Zoo(find=networks.record).load(networks.bring("me", brought, weights).id)
        assert model.scores == "sigmoid"


class TestClassesThatDoNotExcludeEachOther:
    def test_the_facts_say_the_sigmoid(self, bright: Image) -> None:
        model = seeing(3.0, -1.0, 2.0)
        facts = run("saliency", {"image": bright}, {"target": 2, "evidence": 0}, model=model).facts
        wanted = sigmoid(logits_of(model, bright)[2])
        assert facts["class"]["probability"] == pytest.approx(wanted, abs=1e-6)

    def test_the_curves_are_of_the_sigmoid(self, bright: Image) -> None:
        model, pixels = seeing(3.0, -1.0), bright.pixels[None]
        inserted, _ = curves(model, pixels, torch.rand(1, SIDE, SIDE), 1, 1)
        ends = [pixels, blur(pixels, 5.0 * SIDE / 224)]
        seen = [sigmoid(logits_of(model, Image(end[0]))[1]) for end in ends]
        assert float(inserted[0]) == pytest.approx(sum(seen) / 2, abs=1e-6)

    def test_an_aim_is_attained_by_a_class_for_itself(self) -> None:
        # the sigmoids of the best are 0.88 and 0.95; beside the others they have 0.61 and 0.82
        for scores, attained in (("softmax", [False, False]), ("sigmoid", [True, True])):
            aim = Aim(torch.tensor([0, 1]), True, 0.85, scores)  # type: ignore[arg-type]
            assert aim.attained(LOGITS).tolist() == attained

    @pytest.mark.parametrize("targeted", [True, False])
    def test_the_loss_counts_that_none_is_seen(self, targeted: bool) -> None:
        classes, logits = torch.tensor([0, 1]), LOGITS.clone()
        found = Aim(classes, targeted, 0.0, "sigmoid").loss(logits)
        others = [[0.0, -1.0, 1.0], [0.5, 0.0, 1.0]]
        for loss, own, rest in zip(found.tolist(), (2.0, 3.0), others, strict=True):
            reached, left = ([own], rest) if targeted else (rest, [own])
            odds = sum(map(math.exp, reached)) / (1 + sum(map(math.exp, left)))
            assert loss == pytest.approx(-math.log(odds))

    def test_a_picture_is_taken_for_another(self, photo: Image, small_model: VisionModel) -> None:
        small_model.scores = "sigmoid"
        params = {"targets": [3], "confidence": 0.6, "epsilon": 100, "steps": 60}
        result = run("fooling-image", {"image": photo}, params, model=small_model)
        (row,) = result.artifacts[-1].rows  # type: ignore[attr-defined]
        assert row["class_after"] == 3
        assert row["probability_after"] >= 0.6


def test_networks_stored_before_have_softmax(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    brought: Brought = validate(Brought, SAID | {"labels": ["ant", "bee"]})
    weights = safetensors.torch.save(build(brought).state_dict())
    entry = networks.bring("me", brought, weights)
    facts = tmp_path / entry.id / "network.json"
    stored = json.loads(facts.read_text())
    del stored["brought"]["scores"]
    facts.write_text(json.dumps(stored))
    assert networks.entry(entry.id) == entry
    assert networks.record(entry.id).scores == "softmax"
