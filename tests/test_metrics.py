"""How pictures differ, against definitions worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lantern.image import Image
from lantern.metrics import high_frequency_share, psnr, ssim


def test_psnr_by_hand() -> None:
    one = torch.zeros(3, 4, 4)
    assert psnr(one, one) == math.inf
    assert psnr(one, one + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(one, one + 1) == pytest.approx(0, abs=1e-4)


def test_ssim_of_equal_unequal_and_inverted_pictures() -> None:
    chance = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 32, 32, generator=chance)
    assert ssim(Image(noise), Image(noise)) == pytest.approx(1)
    assert ssim(Image(noise), Image(1 - noise)) < -0.5
    assert abs(ssim(Image(noise), Image(torch.rand(3, 32, 32, generator=chance)))) < 0.2
    # two constant pictures differ by luminance alone: (2ab + c) / (a^2 + b^2 + c)
    low, high, c = 0.2, 0.6, 0.01**2
    constant = ssim(Image(torch.full((3, 32, 32), low)), Image(torch.full((3, 32, 32), high)))
    assert constant == pytest.approx((2 * low * high + c) / (low**2 + high**2 + c), rel=1e-3)


@pytest.mark.parametrize(("cycles", "share"), [(2, 0.0), (7, 0.0), (9, 1.0), (15, 1.0)])
def test_a_wave_is_above_or_below_a_quarter_cycle_per_pixel(cycles: int, share: float) -> None:
    wave = torch.cos(2 * math.pi * cycles * torch.arange(32) / 32).expand(1, 3, 32, 32) + 5
    assert high_frequency_share(wave).item() == pytest.approx(share, abs=1e-4)


def test_the_share_of_two_waves_is_that_of_their_energies() -> None:
    at = 2 * math.pi * torch.arange(32) / 32
    both = 3 * torch.cos(2 * at)[:, None] + torch.cos(12 * at)[None]
    share = high_frequency_share(both.expand(2, 3, 32, 32))
    assert share.tolist() == pytest.approx([0.1, 0.1], abs=1e-4)


def test_a_constant_picture_has_no_grain() -> None:
    assert high_frequency_share(torch.full((1, 3, 8, 8), 0.3)).item() == 0
