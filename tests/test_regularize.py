"""Priors and the operators between steps, against hand calculations."""

from __future__ import annotations

import math

import pytest
import torch

from lantern.optimize.regularize import alpha_norm, blur, keep_largest, total_variation


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_total_variation_of_a_ramp_by_hand() -> None:
    ramp = torch.linspace(0, 0.7, 8).expand(2, 3, 8, 8)
    assert total_variation(ramp).tolist() == pytest.approx([0.01, 0.01])
    # with beta the two differences are summed first: (0.1 ** 2 + 0) ** (beta / 2)
    assert total_variation(ramp, beta=1).tolist() == pytest.approx([0.1, 0.1], rel=1e-3)
    assert total_variation(ramp, beta=3).tolist() == pytest.approx([1e-3, 1e-3], rel=1e-3)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 3.0])
def test_total_variation_has_the_gradient_of_its_finite_differences(beta: float) -> None:
    pixels = noise(1, 3, 6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: total_variation(p, beta=beta), pixels)


def test_total_variation_of_a_flat_picture_has_a_gradient() -> None:
    flat = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(total_variation(flat, beta=1.0).sum(), flat)
    assert gradient.isfinite().all()


def test_the_alpha_norm_is_of_distances_from_grey() -> None:
    pixels = torch.tensor([0.0, 0.5, 0.75, 1.0]).view(1, 1, 1, 4)
    assert alpha_norm(pixels, alpha=6).item() == pytest.approx((1 + 0 + 0.5**6 + 1) / 4)
    assert alpha_norm(pixels, alpha=2).item() == pytest.approx((1 + 0 + 0.25 + 1) / 4)


def test_a_blurred_point_is_the_gaussian() -> None:
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1
    blurred = blur(point, 2.0)[0, 1]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    for down, right in ((0, 0), (1, 0), (2, 3), (4, 1)):
        ratio = float(blurred[16 + down, 16 + right] / blurred[16, 16])
        assert ratio == pytest.approx(math.exp(-(down**2 + right**2) / 8), rel=1e-4)


def test_a_blur_keeps_flat_pictures_and_their_edges() -> None:
    flat = torch.full((1, 3, 9, 7), 0.3)
    assert torch.allclose(blur(flat, 1.5), flat)
    pixels = noise(1, 3, 5, 5)
    assert torch.equal(blur(pixels, 0.0), pixels)
    assert blur(noise(1, 3, 3, 2), 8.0).isfinite().all()


@pytest.mark.parametrize("percentile", [10, 50, 90])
def test_clipping_greys_the_stated_share_of_each_sample(percentile: float) -> None:
    pixels, size = noise(2, 3, 20, 20), noise(2, 20, 20, seed=1)
    grey = torch.full((1, 3, 1, 1), 0.5)
    kept = keep_largest(pixels, size, percentile, grey)
    is_grey = (kept == 0.5).all(1)
    assert is_grey.float().mean((1, 2)).tolist() == pytest.approx([percentile / 100] * 2, abs=0.01)
    for sample in range(2):
        assert size[sample][is_grey[sample]].max() < size[sample][~is_grey[sample]].min()
    untouched = ~is_grey[:, None].expand_as(kept)
    assert torch.equal(kept[untouched], pixels[untouched])


def test_clipping_nothing_changes_nothing() -> None:
    pixels = noise(1, 3, 4, 4)
    assert keep_largest(pixels, noise(1, 4, 4), 0, torch.zeros(1, 3, 1, 1)) is pixels
