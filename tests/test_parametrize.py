"""A picture is its start plus what the levels add."""

from __future__ import annotations

import pytest
import torch

from lantern.optimize.parametrize import Pyramid


@pytest.fixture
def start() -> torch.Tensor:
    return torch.rand(1, 3, 13, 21, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


def test_it_begins_as_its_start(start: torch.Tensor) -> None:
    assert torch.equal(Pyramid(start, levels=4).pixels(), start)


def test_each_level_is_half_the_one_before(start: torch.Tensor) -> None:
    pyramid = Pyramid(start, levels=6)
    sizes = [tuple(level.shape) for level in pyramid.parameters]
    assert sizes == [(1, 3, max(1, 13 >> n), max(1, 21 >> n)) for n in range(6)]
    assert all(level.requires_grad and level.is_leaf for level in pyramid.parameters)


def test_the_finest_level_adds_pixel_by_pixel(start: torch.Tensor) -> None:
    pyramid = Pyramid(start, levels=3)
    change = torch.rand(start.shape) * 0.2
    with torch.no_grad():
        pyramid.parameters[0].copy_(change)
    assert torch.allclose(pyramid.pixels(), start + change, atol=1e-6)


def test_a_constant_on_any_level_moves_all_pixels_alike(start: torch.Tensor) -> None:
    for level in range(5):
        pyramid = Pyramid(start, levels=5)
        with torch.no_grad():
            pyramid.parameters[level].fill_(0.1)
        assert torch.allclose(pyramid.pixels(), start + 0.1, atol=1e-6)


def test_pixels_are_clipped(start: torch.Tensor) -> None:
    pyramid = Pyramid(start, levels=2)
    with torch.no_grad():
        pyramid.parameters[1].fill_(5)
    assert torch.equal(pyramid.pixels(), torch.ones_like(start))


def test_gradients_reach_every_level(start: torch.Tensor) -> None:
    pyramid = Pyramid(start, levels=4)
    gradients = torch.autograd.grad(pyramid.pixels().sum(), pyramid.parameters)
    for gradient in gradients:
        # every pixel counts once, however it is spread over a level
        assert gradient.sum().item() == pytest.approx(3 * 13 * 21, rel=1e-4)


def test_the_start_is_not_changed(start: torch.Tensor) -> None:
    kept = start.clone()
    pyramid = Pyramid(start, levels=2)
    with torch.no_grad():
        pyramid.parameters[0].add_(0.3)
    pyramid.pixels()
    assert torch.equal(start, kept)
    assert not start.requires_grad
