"""Changes of pictures stay within their bound, and survive the file they are written to."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lantern.image import Image
from lantern.optimize.perturbation import Bound, Norm, Perturbation

NORMS: tuple[Norm, ...] = ("linf", "l2")


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def size_of(change: Tensor, norm: Norm) -> list[float]:
    """Return the size of each sample's change, exactly where it is in whole levels."""
    flat = change.flatten(1).double()
    return (flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()).tolist()


def changed(start: Tensor, change: Tensor, bound: Bound | None) -> Perturbation:
    canvas = Perturbation(start, bound=bound)
    with torch.no_grad():
        canvas.parameters[0].copy_(change)
    return canvas


# --- The bound ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [1.0, 2.5])
def test_the_projection_is_the_nearest_point_of_the_ball(norm: Norm, epsilon: float) -> None:
    ticks = torch.linspace(-epsilon, epsilon, 121)
    grid = torch.stack(list(map(torch.tensor, itertools.product(ticks.tolist(), repeat=2))))
    inside = grid[torch.tensor(size_of(grid, norm)) <= epsilon + 1e-6]
    for point in torch.randn(40, 2, generator=seeded(0)) * 2 * epsilon:
        found = Bound(norm, epsilon).project(point[None])[0]
        assert size_of(found[None], norm)[0] <= epsilon * (1 + 1e-6)
        nearest = (inside - point).norm(dim=1).min()
        assert (found - point).norm() <= nearest + 1e-6
        assert (found - point).norm() >= nearest - 2 * epsilon / 120


@pytest.mark.parametrize("norm", NORMS)
def test_each_picture_is_projected_by_itself(norm: Norm) -> None:
    change = (
        torch.randn(3, 3, 4, 5, generator=seeded(1))
        * torch.tensor([0.1, 5, 50])[:, None, None, None]
    )
    bound = Bound(norm, 6.0)
    alone = [bound.project(one[None]) for one in change]
    assert torch.allclose(bound.project(change), torch.cat(alone))
    assert torch.equal(alone[0], change[:1]), "what is within the bound is left as it is"


@pytest.mark.parametrize("epsilon", [1.0, 1.5, 2.0, 7.3, 200.0])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("spread", [0.05, 1.0, 30.0])
def test_what_is_written_never_exceeds_the_bound(norm: Norm, epsilon: float, spread: float) -> None:
    start = torch.rand(4, 3, 9, 11, generator=seeded(2))
    change = torch.randn(start.shape, generator=seeded(3)) * spread
    canvas = changed(start, change, Bound(norm, epsilon))
    canvas.project()
    levels = canvas.rounded()
    assert torch.equal(levels, levels.round())
    assert max(size_of(levels, norm)) <= epsilon
    exact = canvas.start + canvas.parameters[0].detach()
    assert exact.min() >= 0
    assert exact.max() <= 255
    assert max(size_of(canvas.parameters[0].detach(), norm)) <= epsilon * (1 + 1e-6)


def test_a_short_change_over_many_pixels_is_not_rounded_away() -> None:
    change = (
        torch.randn(2, 3, 64, 64, generator=seeded(4))
        * torch.tensor([0.1, 0.02])[:, None, None, None]
    )
    assert change.abs().max() < 0.5
    kept = Bound("l2", 100.0).rounded(change)
    for before, after in zip(change, kept, strict=True):
        assert 0.9 * before.norm() <= after.norm() <= before.norm()
        # the largest values are those that are kept
        assert before.abs()[after != 0].min() >= before.abs()[after == 0].max()


def test_no_other_factor_keeps_more_of_the_length() -> None:
    change = torch.randn(1, 3, 5, 7, generator=seeded(5)) * 0.8
    factors = torch.linspace(0.001, 20, 20_000)[:, None]
    lengths = (change.flatten(1) * factors).round().norm(dim=1)
    for epsilon in (3.0, 6.0, 50.0):
        limit = min(epsilon, float(change.norm()))
        best = lengths[lengths <= limit].max().item()
        assert best > 0.8 * limit
        assert Bound("l2", epsilon).rounded(change).norm().item() == pytest.approx(best)


@pytest.mark.parametrize("norm", NORMS)
def test_a_change_in_whole_levels_is_kept_as_it_is(norm: Norm) -> None:
    change = torch.randint(-3, 4, (2, 3, 6, 6), generator=seeded(6)).float()
    assert torch.equal(Bound(norm, 200.0).rounded(change), change)
    assert not Bound(norm, 200.0).rounded(torch.zeros(1, 3, 4, 4)).any()


# --- Where to begin ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_bound_evenly(norm: Norm) -> None:
    generator, bound = seeded(7), Bound(norm, 8.0)
    drawn = torch.stack([bound.draw(torch.Size([2]), generator) for _ in range(4000)])
    sizes = torch.tensor(size_of(drawn, norm))
    assert sizes.max() <= 8
    # of a square as of a disc, a quarter lies within half the size
    assert (sizes <= 4).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert drawn.mean(0).abs().max() < 0.3


@pytest.mark.parametrize("norm", NORMS)
def test_every_picture_begins_with_the_same_random_change(norm: Norm) -> None:
    start = torch.full((3, 3, 8, 8), 0.5)
    one, same, other = (Perturbation(start, bound=Bound(norm, 9.0)) for _ in range(3))
    for canvas, seed in ((one, 0), (same, 0), (other, 1)):
        canvas.scatter(seeded(seed))
    change = one.parameters[0].detach()
    assert change.std() > 0.1
    assert torch.equal(change[0], change[2])
    assert torch.equal(change, same.parameters[0])
    assert not torch.equal(change, other.parameters[0])
    assert max(size_of(change, norm)) <= 9 * (1 + 1e-6)


# --- What the network sees ---------------------------------------------------------------------


@pytest.mark.parametrize("bound", [None, Bound("linf", 3.0), Bound("l2", 40.0)])
def test_the_pixels_are_what_a_png_gives_back(bound: Bound | None) -> None:
    start = torch.rand(2, 3, 20, 24, generator=seeded(8)) * 1.2 - 0.1
    canvas = changed(start, torch.randn(start.shape, generator=seeded(9)) * 5, bound)
    for pixels in canvas.pixels().detach():
        assert torch.equal(Image.decode(Image(pixels).encode("image/png")).pixels, pixels)


def test_gradients_pass_the_rounding_unchanged() -> None:
    unit = torch.tensor([10.0, 20.0, 40.0]).view(1, 3, 1, 1)
    canvas = Perturbation(torch.rand(1, 3, 4, 4, generator=seeded(10)), unit=unit)
    slope = torch.randn(1, 3, 4, 4, generator=seeded(11))
    (gradient,) = torch.autograd.grad((slope * canvas.pixels()).sum(), canvas.parameters)
    assert torch.allclose(gradient, slope * unit / 255)


def test_a_change_of_one_is_one_unit() -> None:
    unit = torch.tensor([10.0, 20.0, 40.0]).view(1, 3, 1, 1)
    canvas = Perturbation(torch.full((1, 3, 4, 4), 100 / 255), unit=unit, bound=Bound("linf", 30.0))
    with torch.no_grad():
        canvas.parameters[0].fill_(1.0)
    canvas.project()
    levels = (canvas.pixels().detach() * 255).round()
    assert levels[0, :, 0, 0].tolist() == [110, 120, 130]
    assert canvas.parameters[0][0, :, 0, 0].tolist() == pytest.approx([1, 1, 0.75])
