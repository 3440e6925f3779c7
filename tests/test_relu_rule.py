"""Silent units are woken where they have no gradient, and nothing else goes another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.artifact import Table
from lantern.records import RECORDS
from lantern.relu_rule import WAKES, ReluRule, waking
from lantern.run import run
from lantern.vision_model import VisionModel
from lantern.zoo import presented


def gradient(given: list[list[float]], slopes: list[list[float]], relu: nn.Module) -> list[Tensor]:
    """Return what comes back to each sample of a ReLU from a loss of these slopes, in two ways."""
    found = []
    for way in (ReluRule("vanilla"), ReluRule("redirected")):
        leaf = torch.tensor(given, requires_grad=True)
        with way:
            loss = (relu(leaf * 1.0) * torch.tensor(slopes)).sum()
        found.append(torch.autograd.grad(loss, leaf)[0])
    return found


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()])
def test_only_a_sample_without_any_gradient_gets_one_of_units_it_would_switch_on(
    relu: nn.Module,
) -> None:
    given = [[-1.0, 2.0, -3.0], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]]
    slopes = [[-1.0, -1.0, 1.0], [-1.0, 2.0, 0.0], [1.0, 1.0, 1.0]]
    usual, woken = gradient(given, slopes, relu)
    assert usual.tolist() == [[0, -1, 0], [0, 0, 0], [0, 0, 0]]
    # down the loss the first unit of the second sample goes up; none of the third's is to
    assert woken.tolist() == [[0, -1, 0], [-1, 0, 0], [0, 0, 0]]


def test_units_at_their_ceiling_come_down_from_it() -> None:
    usual, woken = gradient([[7.0, -1.0], [9.0, 6.0]], [[1.0, 1.0], [-1.0, 2.0]], nn.ReLU6())
    assert not usual.any()
    assert woken.tolist() == [[1, 0], [0, 2]]


def test_only_the_first_steps_wake() -> None:
    assert isinstance(waking(WAKES - 1), ReluRule)
    assert not isinstance(waking(WAKES), ReluRule)


def silent(model: VisionModel, layer: str, count: int) -> list[str]:
    """Name neurons in the middle of a layer that are silent for noise of any kind, and so stay."""
    chance = torch.Generator().manual_seed(5)
    with model.capture([layer]) as look, torch.inference_mode():
        seen = look(0.5 + 0.05 * torch.randn(8, 3, 64, 64, generator=chance))[layer]
    strongest = seen[:, :, seen.shape[2] // 2, seen.shape[3] // 2].amax(0)
    channels = (strongest <= 0).nonzero()[:count, 0].tolist()
    assert len(channels) == count
    return [f"{layer}:{channel}@center" for channel in channels]


def reached(model: VisionModel, neurons: list[str]) -> list[float]:
    params = {"objectives": neurons, "steps": 24, "size": 64, "jitter": 0, "scale": 0, "rotate": 0}
    scores = run("activation-maximization", {}, params, model=model).artifacts[1]
    assert isinstance(scores, Table)
    return [row["value"] for row in scores.rows]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg16", "features.22"),
        ("alexnet", "features.9"),
        ("resnet18", "layer3.1"),
        ("squeezenet1-1", "features.6.expand3x3_activation"),
        ("googlenet", "inception4a.branch2"),
        ("densenet121", "features.denseblock3.denselayer2.relu2"),
    ],
)
def test_silent_neurons_of_other_networks_are_woken(name: str, layer: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = presented(RECORDS[name], RECORDS[name].build(), "")
    values = reached(model, silent(model, layer, 4))
    assert sum(value > 0 for value in values) >= 3, values


def test_silent_neurons_behind_a_relu6_are_woken(model: VisionModel) -> None:
    values = reached(model, silent(model, "_blocks.12._swish", 12))
    assert sum(value > 0 for value in values) >= 10, values


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0),
    "clamp by name": lambda x: x.clamp(min=0),
    "torch.clamp": lambda x: torch.clamp(x, min=0.0),
    "torch.clamp by name": lambda x: torch.clamp(input=x, min=0, max=None),
    "clip": lambda x: torch.clip(x, 0, math.inf),
    "clamp_min": lambda x: x.clamp_min(0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, min=0),
    "clamp_": lambda x: (x * 1).clamp_(min=0),
    "clamp_min_": lambda x: (x * 1).clamp_min_(0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold_": lambda x: torch.threshold_(x * 1, 0.0, 0.0),
    "threshold in place": lambda x: F.threshold(x * 1, 0, 0, True),
    "its module": lambda x: nn.Threshold(0, 0, inplace=True)(x * 1),
}
WRITTEN_6: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(0, 6),
    "torch.clamp": lambda x: torch.clamp(x, min=0, max=6.0),
    "clamp_": lambda x: (x * 1).clamp_(0, 6),
    "hardtanh": lambda x: F.hardtanh(x, 0, 6),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp to 1": lambda x: x.clamp(0, 1),
    "clamp above": lambda x: x.clamp(max=6),
    "from a little": lambda x: x.clamp(min=1e-6),
    "clamp_min of 1": lambda x: x.clamp_min(1),
    "by tensors": lambda x: x.clamp(min=torch.zeros(())),
    "threshold of 1": lambda x: F.threshold(x, 1, 0),
    "threshold to 1": lambda x: F.threshold(x, 0, 1),
    "hardtanh": F.hardtanh,
}


@pytest.mark.parametrize("rule", ["vanilla", "deconvnet", "guided", "redirected"])
@pytest.mark.parametrize(
    ("written", "relu"), [*((w, F.relu) for w in WRITTEN.values()),
                          *((w, F.relu6) for w in WRITTEN_6.values())],
    ids=[*WRITTEN, *(f"{name}, 6" for name in WRITTEN_6)],
)  # fmt: skip
def test_however_a_relu_is_written_it_follows_the_rule(
    written: Callable[[Tensor], Tensor],
    relu: Callable[[Tensor], Tensor],
    rule: Literal["vanilla", "deconvnet", "guided", "redirected"],
) -> None:
    slopes = torch.tensor([[1.0, -1.0, 2.0, -2.0, 3.0], [-1.0, -2.0, 0.0, 1.0, 1.0]])
    found = []
    for way in (relu, written):
        leaf = torch.tensor([[-1.0, 2.0, 3.0, -4.0, 7.0], [-1.0, -2.0, -3.0, -4.0, -5.0]])
        leaf.requires_grad_()
        with ReluRule(rule) as reached:
            out = way(leaf)
        found.append((out.detach(), *torch.autograd.grad((out * slopes).sum(), leaf)))
        assert reached.reached == 1
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_of_maps_only_silent_samples_are_redirected() -> None:
    chance = torch.Generator().manual_seed(0)
    given, slopes = (torch.randn(4, 3, 5, 5, generator=chance) for _ in range(2))
    given[0] = -given[0].abs()  # silent
    given[1, :, :, 1:] = -given[1, :, :, 1:].abs()  # but for the column at the border
    slopes[2] = 0.0  # nothing comes back
    found = []
    for way in (nullcontext(), ReluRule("redirected")):
        leaf = given.clone().requires_grad_()
        with way:
            out = F.relu(leaf)
        found.append(torch.autograd.grad((out * slopes).sum(), leaf)[0])
    usual, redirected = found
    assert torch.equal(redirected[1:], usual[1:])
    assert not usual[0].any()
    # what switches units on, down a loss
    assert torch.equal(redirected[0], slopes[0].clamp_max(0))


@pytest.mark.parametrize("rule", ["vanilla", "redirected"])
@pytest.mark.parametrize(
    ("rectify", "overwrite"),
    [(F.relu, "given"), (F.relu6, "made"), (lambda x: x.clamp(0), "made"), (F.relu_, "made")],
    ids=["relu", "relu6", "clamp", "relu_"],
)
def test_what_torch_lets_be_written_over_may_be(
    rectify: Callable[[Tensor], Tensor], overwrite: str, rule: Literal["vanilla", "redirected"]
) -> None:
    leaf = torch.tensor([[-1.0, 2.0, 7.0]], requires_grad=True)
    with ReluRule(rule):
        given = leaf * 1
        made = rectify(given)
    (given if overwrite == "given" else made).add_(1)
    ceiling = 6 if rectify is F.relu6 else 8
    (slope,) = torch.autograd.grad(made.sum(), leaf)
    assert slope.tolist() == [[0.0, 1.0, float(ceiling > 7)]]


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_is_no_relu_is_left_alone(other: Callable[[Tensor], Tensor]) -> None:
    found = []
    for way in (nullcontext(), ReluRule("guided")):
        leaf = torch.tensor([-1.0, 0.5, 2.0, 7.0], requires_grad=True)
        with way as reached:
            out = other(leaf)
        found.append((out.detach(), *torch.autograd.grad((out * -1).sum(), leaf)))
    assert reached is not None
    assert reached.reached == 0
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_places_that_are_clamped_stay_places() -> None:
    with ReluRule("guided") as reached:
        places = torch.tensor([-2, 3]).clamp(min=0)
        levels = torch.tensor([-2.0, 3.0]).clamp(min=0)  # not of the picture
    assert places.dtype == torch.int64
    assert (places.tolist(), levels.tolist(), reached.reached) == ([0, 3], [0, 3], 0)
