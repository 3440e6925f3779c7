"""Tiles cover a picture, and a sum over them is the whole's, in the memory of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize.parts import summed
from lantern.optimize.tiles import Box, Tile, cut, draw_offset
from tests.alive import watched

KERNEL = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(3))
SIZES = [(200, 330), (64, 64), (256, 256), (257, 31), (96, 641)]


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def deep(pixels: Tensor) -> Tensor:
    """Two layers, strides 2 and 4, that see 7 px around a position."""
    hidden = F.conv2d(pixels, KERNEL, padding=1, stride=2).relu()
    return F.conv2d(hidden, KERNEL.transpose(0, 1), padding=1, stride=2)


# --- Cutting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(0, 0), (32, 64), (96, 0)])
@pytest.mark.parametrize("size", SIZES)
def test_cores_cover_every_pixel_once(size: tuple[int, int], offset: tuple[int, int]) -> None:
    counted = torch.zeros(size)
    for tile in cut(*size, side=192, halo=32, offset=offset):
        tile.core.of(counted).add_(1)
    assert counted.eq(1).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_tile_sees_its_core_and_the_halo_within_the_picture(size: tuple[int, int]) -> None:
    for tile in cut(*size, side=192, halo=32, offset=(32, 96)):
        core, seen = tile.core, tile.seen
        assert (seen.top, seen.left) == (max(0, core.top - 32), max(0, core.left - 32))
        assert seen.bottom == min(size[0], core.bottom + 32)
        assert seen.right == min(size[1], core.right + 32)
        assert max(seen.height, seen.width) <= 192
        assert seen.area == seen.of(torch.ones(size)).sum()


@pytest.mark.parametrize(
    ("side", "halo", "offset"), [(128, 64, (0, 0)), (200, 32, (0, 0)), (192, 16, (0, 0)),
                                 (192, 32, (8, 0))],
)  # fmt: skip
def test_tiles_off_the_grid_are_refused(side: int, halo: int, offset: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        cut(300, 300, side=side, halo=halo, offset=offset)


def test_borders_are_drawn_all_over_a_tile() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = {draw_offset(256, 64, generator) for _ in range(200)}
    assert drawn == {(down, right) for down in range(0, 128, 32) for right in range(0, 128, 32)}
    # none of the pixels of a picture stays at a border
    borders = [{t.core.left for t in cut(64, 900, side=256, halo=64, offset=o)} for o in drawn]
    assert set.intersection(*borders) == {0}


@pytest.mark.parametrize("size", SIZES)
def test_positions_of_all_cores_are_those_of_the_whole(size: tuple[int, int]) -> None:
    pixels = noise(1, 3, *size)
    whole = deep(pixels)
    parts = [
        tile.counted(deep(tile.seen.of(pixels)), 4)
        for tile in cut(*size, side=192, halo=32, offset=(64, 32))
    ]
    assert sum(part[0, 0].numel() for part in parts) == whole[0, 0].numel()
    together = torch.cat([part.flatten() for part in parts])
    assert torch.allclose(together.sort().values, whole.flatten().sort().values, atol=1e-4)


def test_what_has_no_positions_counts_as_a_whole() -> None:
    tile = Tile(Box(32, 32, 64, 64), Box(0, 0, 96, 96))
    for activation in (noise(1, 7), noise(1, 7, 1, 1)):
        assert torch.equal(tile.counted(activation, 16), activation)


# --- Summing -----------------------------------------------------------------------------------


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[float, Tensor]:
    at = at.clone().requires_grad_()
    value = function(at)
    value.backward()  # type: ignore[no-untyped-call]
    assert at.grad is not None
    return value.item(), at.grad


@pytest.mark.parametrize("offset", [(0, 0), (64, 96)])
def test_the_sum_over_tiles_is_that_of_the_whole_and_so_is_its_gradient(
    offset: tuple[int, int],
) -> None:
    pixels = noise(2, 3, 250, 310)
    parts = cut(250, 310, side=192, halo=32, offset=offset)

    def tiled(at: Tensor) -> Tensor:
        return summed(lambda seen, tile: tile.counted(deep(seen), 4).square().sum(), at, parts)

    value, slope = gradient(tiled, pixels)
    expected, expected_slope = gradient(lambda at: deep(at).square().sum(), pixels)
    assert value == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(slope, expected_slope, rtol=1e-3, atol=1e-3)


def test_the_gradient_passes_on_to_what_the_pixels_are_made_of() -> None:
    parts = cut(100, 100, side=128, halo=32)
    level = torch.tensor(0.5, requires_grad=True)
    total = 3 * summed(lambda seen, tile: tile.core.area * seen.mean() ** 2,
                       level.expand(1, 3, 100, 100), parts)  # fmt: skip
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == pytest.approx(3 * 10_000 * 0.25)
    assert level.grad is not None
    assert level.grad.item() == pytest.approx(3 * 10_000 * 2 * 0.5)


def test_without_a_gradient_only_the_sum_is_made() -> None:
    parts = cut(100, 100, side=128, halo=32)
    asked: list[bool] = []

    def area(seen: Tensor, tile: Tile) -> Tensor:
        asked.append(torch.is_grad_enabled())
        return torch.tensor(float(tile.core.area))

    assert summed(area, noise(1, 3, 100, 100), parts).item() == 10_000
    assert asked == [False] * len(parts)


def most_alive(function: Callable[[Tensor], Tensor], pixels: Tensor) -> int:
    with watched() as alive:
        gradient(function, pixels)
    assert alive.now == 0
    return alive.most


def test_only_the_activations_of_one_tile_are_alive() -> None:
    def worth(seen: Tensor) -> Tensor:
        return deep(seen).square().sum()

    def tiled(at: Tensor) -> Tensor:
        parts = cut(at.shape[2], at.shape[3], side=256, halo=32)
        return summed(lambda seen, tile: worth(seen), at, parts)

    one = most_alive(worth, noise(1, 3, 256, 256))
    small, large = noise(1, 3, 512, 512), noise(1, 3, 1024, 1024)
    assert most_alive(worth, large) > 15 * one
    # the gradient itself, kept until the backward pass, is as large as the picture
    assert most_alive(tiled, small) <= one + small.nbytes
    assert most_alive(tiled, large) <= one + large.nbytes
