"""Objectives in words: what they mean, what they are worth, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lantern.errors import InvalidParameter, LanternError, UnknownName
from lantern.optimize.goals import Goals, read
from lantern.vision_model import LOGITS, VisionModel


@pytest.fixture
def seen() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(3)
    return {
        "conv1": torch.randn(2, 8, 6, 5, generator=chance),
        "conv2": torch.randn(2, 12, 3, 4, generator=chance),
        LOGITS: torch.randn(2, 7, generator=chance),
    }


def value(text: str, model: VisionModel, seen: dict[str, Tensor], power: float = 0) -> float:
    goals = read([text], model, most=9)
    assert [goal.text for goal in goals] == [text.strip()]
    first = {name: activation[:1] for name, activation in seen.items()}
    return Goals(goals, cosine_power=power).values(first).item()


def test_what_each_objective_is_worth(small_model: VisionModel, seen: dict[str, Tensor]) -> None:
    one, two, logits = (seen[name][0] for name in ("conv1", "conv2", LOGITS))
    expected = {
        "class:3": logits[3],
        "conv1:2": one[2].mean(),
        "conv1:2@1x4": one[2, 1, 4],
        "conv1:2@center": one[2, 3, 2],
        "conv2": two.square().mean(),
        "conv2:1=0.5;4=-2": 0.5 * two[1].mean() - 2 * two[4].mean(),
        "conv2:1=1;4=2@2x0": two[1, 2, 0] + 2 * two[4, 2, 0],
        "class:1 - 0.25*class:2 + conv1:0": logits[1] - 0.25 * logits[2] + one[0].mean(),
        "-conv1:5": -one[5].mean(),
        " 2*conv1 ": 2 * one.square().mean(),
    }
    for text, number in expected.items():
        assert value(text, small_model, seen) == pytest.approx(float(number), rel=1e-5), text


def test_a_batch_has_an_objective_for_each_sample(
    small_model: VisionModel, seen: dict[str, Tensor]
) -> None:
    goals = read(["conv1:2+class:1", "conv2-conv1:0@0x0"], small_model, most=2)
    made = Goals(goals)
    assert set(made.layers) == {"conv1", "conv2", LOGITS}
    expected = [
        seen["conv1"][0, 2].mean() + seen[LOGITS][0, 1],
        seen["conv2"][1].square().mean() - seen["conv1"][1, 0, 0, 0],
    ]
    assert torch.allclose(made.values(seen), torch.stack(expected))


def test_the_cosine_counts_only_on_the_right_side(
    small_model: VisionModel, seen: dict[str, Tensor]
) -> None:
    mean = seen["conv2"][0].mean((1, 2))
    wanted = torch.zeros(12)
    wanted[1], wanted[4] = 1.0, 2.0
    cosine = float(torch.cosine_similarity(mean, wanted, dim=0))
    dot = float(mean @ wanted)
    for text, sign in (("conv2:1=1;4=2", 1), ("conv2:1=-1;4=-2", -1)):
        found = value(text, small_model, seen, power=2)
        assert found == pytest.approx(sign * dot * max(sign * cosine, 0.1) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("conv1:*", [f"conv1:{n}" for n in range(8)]),
        ("conv1:6..7", ["conv1:6", "conv1:7"]),
        ("class:1-0.5*conv1:0..1", ["class:1-0.5*conv1:0", "class:1-0.5*conv1:1"]),
        ("conv1:0..1@center", ["conv1:0@center", "conv1:1@center"]),
        ("conv1:1..1@2x3", ["conv1:1@2x3"]),
    ],
)
def test_several_channels_are_several_objectives(
    text: str, names: list[str], small_model: VisionModel
) -> None:
    goals = read([text], small_model, most=8)
    assert [goal.text for goal in goals] in (names, [text])
    assert len(goals) == len(names)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("class:7", InvalidParameter, "0 to 6"),
        ("class:1@2x2", InvalidParameter, "class:207"),
        ("class", InvalidParameter, "class:207"),
        ("class:*", InvalidParameter, "class:207"),
        ("conv1:8", InvalidParameter, "channels 0 to 7, not 8"),
        ("conv1:6..9", InvalidParameter, "not from 6 to 9"),
        ("conv1:5..2", InvalidParameter, "not from 5 to 2"),
        ("conv1:0..999999", InvalidParameter, "not from 0"),
        ("+".join(["conv2:*"] * 40), InvalidParameter, "at most 5"),
        ("conv1@3x4", InvalidParameter, "no channel is named"),
        ("fc:3@0x0", InvalidParameter, "has none"),
        ("conv2:3=1;12=1", InvalidParameter, "not 12"),
        ("nowhere:1", UnknownName, "did you mean|the layers are"),
        ("conv1:1 conv1:2", InvalidParameter, "joined by"),
        ("conv1:1 +", InvalidParameter, "joined by"),
        ("conv1:", InvalidParameter, "joined by"),
        ("3*", InvalidParameter, "joined by"),
        ("conv1:1@1", InvalidParameter, "joined by"),
        ("__import__('os')", InvalidParameter, "joined by|layer"),
        ("   ", InvalidParameter, "objective is"),
        ("conv1:*", InvalidParameter, "at most 5"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    text: str, kind: type[LanternError], words: str, small_model: VisionModel
) -> None:
    with pytest.raises((InvalidParameter, UnknownName), match=words) as caught:
        read(["class:1", text], small_model, most=5)
    assert caught.value.pointer == "/params/objectives/1"


def test_a_position_outside_the_layer_is_refused(
    small_model: VisionModel, seen: dict[str, Tensor]
) -> None:
    with pytest.raises(InvalidParameter, match="6 rows and 5 columns here, not 6x0"):
        value("conv1:2@6x0", small_model, seen)


def test_reading_is_fast_on_hostile_text(small_model: VisionModel) -> None:
    for text in ("1*" * 200, "a" * 400, "conv1:1=1;" * 40, "+" * 400, "conv1:1" + "+conv1:1" * 49):
        try:
            read([text], small_model, most=5)
        except (InvalidParameter, UnknownName):
            continue


def test_scores_of_all_classes_speak_for_none(small_model: VisionModel) -> None:
    (goal,) = read(["logits"], small_model, most=1)
    assert goal.classes == ()


def test_the_classes_an_objective_speaks_for(small_model: VisionModel) -> None:
    (goal,) = read(["class:3-class:4+conv1:1"], small_model, most=1)
    assert goal.classes == (3,)
