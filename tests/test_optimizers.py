"""The step rules that torch does not have."""

from __future__ import annotations

import pytest
import torch

from lantern.optimize.optimizers import Measure, NormalisedAscent

MEASURES: tuple[Measure, ...] = ("spread", "length", "sign")


def test_a_step_is_along_the_gradient_over_its_deviation() -> None:
    at = torch.zeros(1, 2, 5, requires_grad=True)
    slope = torch.arange(10.0).view(1, 2, 5)
    optimizer = NormalisedAscent([at], step_size=0.3)

    def closure() -> float:
        optimizer.zero_grad()
        loss = -(slope * at).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item() + 7

    assert optimizer.step(closure) == 7
    assert torch.allclose(at.detach(), 0.3 * slope / slope.std())


def test_a_step_has_the_length_asked_for() -> None:
    at = torch.zeros(1, 4, requires_grad=True)
    at.grad = torch.tensor([[3.0, 0.0, 0.0, -4.0]])
    NormalisedAscent([at], step_size=2.0, by="length").step()
    assert at.detach()[0].tolist() == pytest.approx([-1.2, 0, 0, 1.6])


def test_a_step_by_sign_moves_every_value_alike() -> None:
    at = torch.zeros(1, 3, requires_grad=True)
    at.grad = torch.tensor([[1e-9, 0.0, -5.0]])
    NormalisedAscent([at], step_size=0.5, by="sign").step()
    assert at.detach()[0].tolist() == [-0.5, 0, 0.5]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("by", MEASURES)
def test_the_step_does_not_depend_on_the_gradients_scale(scale: float, by: Measure) -> None:
    gradient = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    steps = []
    for factor in (1.0, scale):
        at = torch.zeros(1, 50, requires_grad=True)
        at.grad = gradient * factor
        assert NormalisedAscent([at], step_size=0.1, by=by).step() is None
        steps.append(at.detach())
    assert torch.allclose(steps[0], steps[1], rtol=1e-4)


@pytest.mark.parametrize("by", MEASURES)
def test_every_sample_is_normalised_by_itself(by: Measure) -> None:
    slope = torch.linspace(-1, 1, 20)
    both = torch.zeros(2, 20, requires_grad=True)
    both.grad = torch.stack([slope * 1e-3, slope.flip(0) * 1e3])
    NormalisedAscent([both], step_size=0.1, by=by).step()
    assert torch.allclose(both[0], both[1].flip(0), rtol=1e-4)


def test_every_parameter_is_normalised_by_itself() -> None:
    small, large = (torch.zeros(1, 20, requires_grad=True) for _ in range(2))
    slope = torch.linspace(-1, 1, 20)[None]
    small.grad, large.grad = slope * 1e-3, slope * 1e3
    NormalisedAscent([small, large], step_size=0.1).step()
    assert torch.allclose(small, large, rtol=1e-4)


@pytest.mark.parametrize("by", MEASURES)
def test_a_gradient_that_is_zero_moves_nothing(by: Measure) -> None:
    at = torch.ones(1, 5, requires_grad=True)
    at.grad = torch.zeros(1, 5)
    NormalisedAscent([at], step_size=0.1, by=by).step()
    assert at.tolist() == [[1] * 5]


def test_the_rate_can_be_changed_between_steps() -> None:
    at = torch.zeros(1, 10, requires_grad=True)
    at.grad = torch.linspace(-1, 1, 10)[None]
    optimizer = NormalisedAscent([at], step_size=0.1)
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert at.detach().std().item() == pytest.approx(0.2, rel=1e-4)


def test_levels_share_a_step_however_loud_the_grain_is() -> None:
    """A faint broad wave under grain a hundred times as strong."""
    grain = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    wave = torch.linspace(0, 2 * torch.pi, 64).sin().expand(1, 1, 64, 64)

    def share(levels: int) -> float:
        at = torch.zeros(1, 1, 64, 64, requires_grad=True)
        at.grad = grain + 0.01 * wave
        NormalisedAscent([at], step_size=1.0, levels=levels).step()
        assert at.detach().std().item() == pytest.approx(1, rel=1e-3)
        return -float((at.detach() * wave).sum() / (wave.square().sum() * at.numel()) ** 0.5)

    plain = share(1)
    assert abs(plain) < 0.05
    assert share(6) > 4 * abs(plain)
    assert share(6) > share(4)


def test_levels_sum_up_what_each_level_is_over_its_own_size() -> None:
    gradient = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    at = torch.zeros(1, 1, 4, 4, requires_grad=True)
    at.grad = gradient
    NormalisedAscent([at], step_size=1.0, levels=2).step()
    # by hand: means of neighbours weighed 1, 3, 3, 1, and back again 1, 3; edges without outside
    down = torch.tensor([[3.0, 3, 1, 0], [0, 1, 3, 3]]) / 7
    up = torch.tensor([[4.0, 0], [3, 1], [1, 3], [0, 4]]) / 4
    coarse = down @ gradient[0, 0] @ down.T
    fine = gradient[0, 0] - up @ coarse @ up.T
    both = fine / fine.std() + up @ (coarse / coarse.std()) @ up.T
    assert torch.allclose(at.detach()[0, 0], -both / both.std(), atol=1e-5)


def test_momentum_gathers_gradients_over_their_mean() -> None:
    at = torch.zeros(1, 2, requires_grad=True)
    optimizer = NormalisedAscent([at], step_size=0.5, by="length", momentum=0.5)
    at.grad = torch.tensor([[30.0, -10.0]])  # 1.5 and -0.5 of their mean
    optimizer.step()
    first = torch.tensor([1.5, -0.5])
    assert torch.allclose(at.detach()[0], -0.5 * first / first.norm())
    before = at.detach().clone()
    at.grad = torch.tensor([[0.0, 0.2]])  # 0 and 2
    optimizer.step()
    second = torch.tensor([0.0, 2.0]) + 0.5 * first
    assert torch.allclose((at.detach() - before)[0], -0.5 * second / second.norm())


@pytest.mark.parametrize("momentum", [0.0, 1.0])
@pytest.mark.parametrize("by", MEASURES)
def test_a_sample_without_a_gradient_stays_and_takes_no_step(by: Measure, momentum: float) -> None:
    at = torch.zeros(2, 4, requires_grad=True)
    optimizer = NormalisedAscent([at], step_size=0.1, by=by, momentum=momentum)
    assert optimizer.taken(at).tolist() == [0, 0]
    slope = torch.linspace(-1, 1, 4)
    at.grad = torch.stack([slope, slope])
    optimizer.step()
    before = at.detach().clone()
    at.grad = torch.stack([slope, torch.zeros(4)])
    optimizer.step()
    assert torch.equal(at[1], before[1])
    assert not torch.equal(at[0], before[0])
    assert optimizer.taken(at).tolist() == [2, 1]


def test_momentum_and_steps_outlive_a_checkpoint() -> None:
    ends = []
    for resumes in (False, True):
        at = torch.zeros(2, 4, requires_grad=True)
        optimizer = NormalisedAscent([at], step_size=0.1, by="sign", momentum=1.0)
        for step in range(6):
            if resumes and step == 3:
                state = optimizer.state_dict()
                optimizer = NormalisedAscent([at], step_size=0.1, by="sign", momentum=1.0)
                optimizer.load_state_dict(state)
            at.grad = torch.randn(2, 4, generator=torch.Generator().manual_seed(step))
            at.grad[1] *= step < 2
            optimizer.step()
        ends.append((at.detach(), optimizer.taken(at)))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1].tolist() == ends[1][1].tolist() == [6, 2]
