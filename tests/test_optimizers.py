"""The step rules that torch does not have."""

from __future__ import annotations

import pytest
import torch

from lantern.optimize.optimizers import NormalisedAscent


def test_a_step_is_along_the_gradient_over_its_deviation() -> None:
    at = torch.zeros(2, 5, requires_grad=True)
    slope = torch.arange(10.0).view(2, 5)
    optimizer = NormalisedAscent([at], step_size=0.3)

    def closure() -> float:
        optimizer.zero_grad()
        loss = -(slope * at).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item() + 7

    assert optimizer.step(closure) == 7
    assert torch.allclose(at.detach(), 0.3 * slope / slope.std())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_step_does_not_depend_on_the_gradients_scale(scale: float) -> None:
    at = torch.zeros(50, requires_grad=True)
    at.grad = torch.randn(50, generator=torch.Generator().manual_seed(0)) * scale
    assert NormalisedAscent([at], step_size=0.1).step() is None
    assert at.detach().std().item() == pytest.approx(0.1, rel=1e-4)


def test_every_parameter_is_normalised_by_itself() -> None:
    small, large = (torch.zeros(20, requires_grad=True) for _ in range(2))
    slope = torch.linspace(-1, 1, 20)
    small.grad, large.grad = slope * 1e-3, slope * 1e3
    NormalisedAscent([small, large], step_size=0.1).step()
    assert torch.allclose(small, large, rtol=1e-4)


def test_a_gradient_that_is_zero_moves_nothing() -> None:
    at = torch.ones(5, requires_grad=True)
    at.grad = torch.zeros(5)
    NormalisedAscent([at], step_size=0.1).step()
    assert at.tolist() == [1] * 5


def test_the_rate_can_be_changed_between_steps() -> None:
    at = torch.zeros(10, requires_grad=True)
    at.grad = torch.linspace(-1, 1, 10)
    optimizer = NormalisedAscent([at], step_size=0.1)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert at.detach().std().item() == pytest.approx(0.2, rel=1e-4)
