"""What pictures that are to fool a network strive for, and when they are done."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.image import Image
from lantern.optimize.ascend import ascend
from lantern.optimize.attack import Aim, Attack
from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.perturbation import Bound, Perturbation
from lantern.progress import silent
from lantern.vision_model import VisionModel

LOGITS = torch.tensor([[2.0, 0.0, -1.0, 1.0], [0.5, 3.0, 0.0, 1.0]])


def aim(classes: Sequence[int], *, targeted: bool, confidence: float = 0.0) -> Aim:
    return Aim(torch.tensor(classes), targeted, confidence)


@pytest.mark.parametrize("targeted", [True, False])
def test_the_loss_is_the_logarithm_of_the_odds(targeted: bool) -> None:
    odds = [
        math.log(math.exp(2) / (math.exp(0) + math.exp(-1) + math.exp(1))),
        math.log(math.exp(0) / (math.exp(0.5) + math.exp(3) + math.exp(1))),
    ]
    found = aim([0, 2], targeted=targeted).loss(LOGITS).tolist()
    assert found == pytest.approx([-o if targeted else o for o in odds])


@pytest.mark.parametrize("targeted", [True, False])
def test_the_loss_leads_where_the_cross_entropy_leads(targeted: bool) -> None:
    classes, logits = torch.tensor([1, 2]), LOGITS.clone().requires_grad_()
    (ours,) = torch.autograd.grad(Aim(classes, targeted).loss(logits).sum(), logits)
    entropy = F.cross_entropy(logits, classes, reduction="sum")
    (theirs,) = torch.autograd.grad(entropy if targeted else -entropy, logits)
    assert F.cosine_similarity(ours, theirs).tolist() == pytest.approx([1, 1])


def test_a_network_that_is_sure_still_leaves_a_gradient() -> None:
    sure = torch.tensor([[200.0, 0.0, 1.0]], requires_grad=True)
    (ours,) = torch.autograd.grad(aim([0], targeted=False).loss(sure).sum(), sure)
    (theirs,) = torch.autograd.grad(F.cross_entropy(sure, torch.tensor([0])), sure)
    assert not theirs.any()
    assert ours[0].tolist() == pytest.approx([1, -1 / (1 + math.e), -math.e / (1 + math.e)])


def test_the_score_is_that_of_the_class_alone() -> None:
    assert aim([0, 2], targeted=True).score(LOGITS).tolist() == [-2, 0]
    assert aim([0, 1], targeted=False).score(LOGITS).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("classes", "targeted", "confidence", "attained"),
    [
        ([0, 1], True, 0.0, [True, True]),
        ([0, 2], True, 0.0, [True, False]),
        ([0, 2], False, 0.0, [False, True]),
        ([0, 1], True, 0.7, [False, True]),  # 0.64 and 0.80
        ([3, 0], False, 0.7, [False, True]),
    ],
)
def test_an_aim_is_attained_by_the_first_choice_if_it_is_sure_enough(
    classes: list[int], targeted: bool, confidence: float, attained: list[bool]
) -> None:
    found = aim(classes, targeted=targeted, confidence=confidence).attained(LOGITS)
    assert found.tolist() == attained


class Brightness(nn.Module):
    """Class 1 for bright pictures, class 0 for dark ones; counts the pictures it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.seen: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        level = self.slope * (pixels.mean((1, 2, 3)) * 255 - 100)
        return torch.stack([-level, level], 1)


def test_a_picture_that_is_done_changes_no_more_and_costs_no_more() -> None:
    network = Brightness()
    model = VisionModel(
        "brightness", network, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=8, resize_size=8,
        labels=(),
    )  # fmt: skip
    start = torch.tensor([97.0, 92.5, 99.5, 0.0]).div(255).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    canvas = Perturbation(start, bound=Bound("linf", 12.0))
    optimizer = NormalisedAscent(canvas.parameters, 2.0, by="sign", momentum=1.0)
    attack = Attack(model, canvas, aim([1] * 4, targeted=True, confidence=0.6), optimizer)
    ends: list[list[float]] = []

    def after(step: int) -> None:
        attack.after(step)
        ends.append((canvas.pixels()[:, 0, 0, 0] * 255).round().tolist())

    def preview() -> Image:
        raise AssertionError("nobody asked for a preview")

    trace = ascend(
        attack.loss, optimizer, steps=9, progress=silent, preview=preview, after=after,
        is_over=attack.is_over,
    )  # fmt: skip
    # 92.5 is rounded to 92; the sigmoid of 2 * 0.5 is above 0.6, that of 0 is not
    assert attack.steps().tolist() == [2, 5, 1, 9]
    assert ends[0] == [99, 94, 102, 2]
    assert ends[-1] == [101, 102, 102, 12]
    assert all(end[0] == 101 for end in ends[1:])
    assert network.seen == [4, 4, 3, 2, 2, 2, 1, 1, 1]
    assert not trace.settled
