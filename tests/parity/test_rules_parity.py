"""Guided backpropagation and deconvnet equal captum's, however a ReLU is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
)
from torch import Tensor, nn

from lantern.image import Image
from lantern.relu_rule import ReluRule, Rule
from lantern.techniques.guided_backprop import rule_gradient
from lantern.vision_model import VisionModel
from tests.parity.common import (
    SIDE,
    Functional,
    Modules,
    Reused,
    assert_close,
    in_place,
    made,
    oracle,
    square,
)

# captum tells whoever uses its rules for ReLUs that it will change the network
pytestmark = pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks")


class FunctionalInPlace(Functional):
    """The same, each ReLU a function that writes over what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x), inplace=True)
        x = F.max_pool2d(x, 2)
        x = x + self.b(x)
        torch.relu_(x)  # what it returns is not looked at
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Sixes(Functional):
    """The same with ReLU6 in its two ways of being written."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu6(8 * self.a(x)), 2)
        x = F.hardtanh(8 * (x + self.b(x)), 0.0, 6.0)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def by_captum(rule: str, network: nn.Module, image: Image, target: int) -> Tensor:
    method = {"guided": GuidedBackprop, "deconvnet": Deconvolution}[rule](network)
    given = (image.pixels[None] - MEAN) / STD
    gradient: Tensor = method.attribute(given.requires_grad_(), target=target)
    return (gradient / STD)[0].detach()


MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("network", [Modules, Functional, FunctionalInPlace])
def test_rules_reach_every_way_of_writing_a_relu(network: type[nn.Module], rule: Rule) -> None:
    image = square(SIDE)
    wanted = by_captum(rule, made(Modules).network, image, 3)
    plain = rule_gradient(made(network), image.pixels[None], 3, "vanilla")[0]
    got, *_ = rule_gradient(made(network), image.pixels[None], 3, rule)
    assert_close(got, wanted, 1e-5)
    assert (got - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("network", [Reused, in_place])
def test_rules_reach_a_relu_that_is_used_again(
    network: Callable[[], nn.Module], rule: Rule
) -> None:
    class Apart(Reused):
        """The reused network with ReLUs of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.relus[0](self.norm(self.a(x)))
            x = self.relus[1](self.b(x))
            out: Tensor = self.head(self.relus[2](F.adaptive_max_pool2d(x, 2).flatten(1)))
            return out

    image = square(SIDE)
    wanted = by_captum(rule, made(Apart).network, image, 2)
    got, *_ = rule_gradient(made(network), image.pixels[None], 2, rule)
    assert_close(got, wanted, 1e-5)


def test_rules_reach_relu6() -> None:
    model, image = made(Sixes), square(SIDE)
    leaf = image.pixels[None].clone().requires_grad_()
    (plain,) = torch.autograd.grad(model.logits(leaf)[0, 1], leaf)
    got, *_ = rule_gradient(model, image.pixels[None], 1, "vanilla")
    assert_close(got, plain[0], 1e-6)
    with ReluRule("guided") as reached:
        model.logits(image.pixels[None])
    assert reached.reached == 2
    guided, *_ = rule_gradient(model, image.pixels[None], 1, "guided")
    assert (guided - got).abs().max() > 0.1 * got.abs().max()


def test_the_rule_vanilla_on_the_real_network_is_the_gradient(
    model: VisionModel, photo: Image
) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    leaf = pixels.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model.logits(leaf)[0, 285], leaf)
    got, *_ = rule_gradient(model, pixels, 285, "vanilla")
    assert_close(got, plain[0], 1e-5)


def test_rules_of_the_real_network_equal_captums(model: VisionModel, photo: Image) -> None:
    # captum knows no ReLU6; below six it is a ReLU, so the twin may have these instead
    twin = oracle(model)
    swap_relus(twin.network)
    own = model.copy()
    swap_relus(own.network)
    image = photo.resize(224, 224)
    leaf = image.pixels[None].clone()
    for rule, method in (("guided", GuidedBackprop), ("deconvnet", Deconvolution)):
        network = Normalised(twin)
        wanted = method(network).attribute(leaf.clone().requires_grad_(), target=285)[0].detach()
        got, *_ = rule_gradient(own, leaf, 285, cast(Rule, rule))
        assert_close(got, wanted, 1e-5)


class Normalised(nn.Module):
    """A model with its normalisation, as one module."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.network, self.model = model.network, model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits(x)


def swap_relus(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(network, name, nn.ReLU())
        else:
            swap_relus(child)
