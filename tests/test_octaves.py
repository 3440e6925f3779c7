"""Sizes of octaves, and what is carried between them."""

from __future__ import annotations

import itertools

import pytest
import torch

from lantern.optimize.octaves import enlarged, octaves, zoomed


def test_octaves_grow_by_their_scale_up_to_the_full_size() -> None:
    sizes = octaves((300, 401), count=4, scale=1.4, smallest=48)
    assert len(sizes) == 4
    assert sizes[-1] == (300, 401)
    for small, large in itertools.pairwise(sizes):
        assert large[0] / small[0] == pytest.approx(1.4, rel=0.01)
        assert large[1] / small[1] == pytest.approx(1.4, rel=0.01)


def test_small_octaves_are_left_out_but_never_the_last() -> None:
    assert octaves((100, 400), count=8, scale=2.0, smallest=48) == [(50, 200), (100, 400)]
    assert octaves((40, 40), count=8, scale=1.1, smallest=48) == [(40, 40)]


def test_detail_is_enlarged_without_a_change_of_level() -> None:
    detail = torch.tensor([0.25, -0.5]).view(1, 2, 1, 1).expand(1, 2, 3, 5)
    large = enlarged(detail, (9, 11))
    assert large.shape == (1, 2, 9, 11)
    assert torch.allclose(large, detail[..., :1, :1].expand_as(large))


def test_a_zoom_enlarges_around_the_centre() -> None:
    row, column = torch.meshgrid(torch.arange(41.0), torch.arange(61.0), indexing="ij")
    pixels = torch.stack([row, column])[None]
    closer = zoomed(pixels, 1.25)
    # what is 10 px from the centre now lies 10 * 1.25 px from it
    assert torch.allclose(closer[0, 0], 20 + (row - 20) / 1.25, atol=1e-3)
    assert torch.allclose(closer[0, 1], 30 + (column - 30) / 1.25, atol=1e-3)
    assert torch.allclose(zoomed(pixels, 1.0), pixels, atol=1e-3)
