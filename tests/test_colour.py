"""Numbers get the colours they should."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from lantern.colour import Colormap, colourise

RAMP = torch.linspace(0, 1, 256)[None]


def level(values: torch.Tensor, colormap: Colormap, at: int) -> list[int]:
    return [round(float(v) * 255) for v in colourise(values, colormap)[:, 0, at]]


# Entries of the published tables of 256 colours
@pytest.mark.parametrize(
    ("colormap", "at", "colour"),
    [
        ("viridis", 0, (68, 1, 84)),
        ("viridis", 64, (59, 82, 139)),
        ("viridis", 128, (33, 145, 140)),
        ("viridis", 192, (94, 201, 98)),
        ("viridis", 255, (253, 231, 37)),
        ("inferno", 0, (0, 0, 4)),
        ("inferno", 64, (87, 16, 110)),
        ("inferno", 128, (188, 55, 84)),
        ("inferno", 192, (249, 142, 9)),
        ("inferno", 255, (252, 255, 164)),
    ],
)
def test_published_maps_are_met(colormap: Colormap, at: int, colour: tuple[int, ...]) -> None:
    assert level(RAMP, colormap, at) == pytest.approx(colour, abs=4)


def test_grey_is_linear() -> None:
    assert torch.allclose(colourise(RAMP, "grey"), RAMP.expand(3, 1, 256), atol=1e-3)


def test_the_diverging_map_is_symmetric_about_zero() -> None:
    values = torch.tensor([[-4.0, -2.0, 0.0, 2.0, 4.0]])
    assert level(values, "diverging", 2) == pytest.approx([247] * 3, abs=2)
    blue, red = level(values, "diverging", 0), level(values, "diverging", 4)
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    # the smaller side does not reach the end of its colours
    lopsided = torch.tensor([[-1.0, 0.0, 4.0]])
    assert level(lopsided, "diverging", 0) == level(torch.tensor([[-1.0, 4.0]]), "diverging", 0)
    assert level(lopsided, "diverging", 1) == pytest.approx([247] * 3, abs=2)


def test_auto_fits_the_sign() -> None:
    signed = torch.tensor([[-1.0, 0.5]])
    assert torch.equal(colourise(signed, "auto"), colourise(signed, "diverging"))
    assert torch.equal(colourise(signed.abs(), "auto"), colourise(signed.abs(), "inferno"))


def test_one_sided_maps_begin_at_zero_or_the_smallest_value() -> None:
    assert level(torch.tensor([[2.0, 4.0]]), "grey", 0) == pytest.approx([128] * 3, abs=1)
    assert level(torch.tensor([[-2.0, 4.0]]), "grey", 0) == [0, 0, 0]


@pytest.mark.parametrize("colormap", get_args(Colormap))
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_map_has_one_finite_colour(colormap: Colormap, value: float) -> None:
    colours = colourise(torch.full((4, 5), value), colormap)
    assert colours.shape == (3, 4, 5)
    assert torch.isfinite(colours).all()
    assert torch.equal(colours, colours[:, :1, :1].expand(3, 4, 5))
    # the lowest one, and where zero is the middle, that
    shown: Colormap = "inferno" if colormap == "auto" else colormap
    wanted = colourise(torch.tensor([[-1.0, 0.0, 1.0]]), shown)
    assert torch.equal(colours[:, 0, 0], wanted[:, 0, int(colormap == "diverging")])


@pytest.mark.parametrize("colormap", get_args(Colormap))
def test_colours_stay_in_range(colormap: Colormap) -> None:
    values = torch.randn(20, 20, generator=torch.Generator().manual_seed(2)) * 1e6
    colours = colourise(values.requires_grad_(), colormap)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert not colours.requires_grad


@pytest.mark.parametrize("sign", [1, -1])
def test_a_few_extremes_leave_the_rest_to_be_seen(sign: int) -> None:
    values = torch.linspace(0, 1, 1000).view(10, 100)
    values[0, 0] = 1000.0
    values = sign * values
    dark, clear = (colourise(values, "diverging", quantile=q) for q in (1.0, 0.99))
    assert (dark[:, -1, -1] - dark[:, 0, 1]).abs().max() < 0.02
    assert (clear[:, -1, -1] - clear[:, 0, 1]).abs().max() > 0.5
    assert torch.equal(clear[:, 0, 0], clear[:, -1, -1])


def test_of_a_map_with_hardly_a_value_the_largest_counts() -> None:
    values = torch.zeros(20, 20)
    values[3, 3] = 5.0
    found = colourise(values, "inferno", quantile=0.99)
    assert torch.equal(found, colourise(values, "inferno"))


def test_a_large_map_is_looked_at_in_part() -> None:
    values = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(0))
    found = colourise(values, "grey", quantile=0.9)
    assert float((found[0] == 1).float().mean()) == pytest.approx(0.1, abs=0.01)
