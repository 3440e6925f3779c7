"""Pictures as spectra: exact both ways, natural in colour and scale, and what MACO keeps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lantern import samples
from lantern.image import Image
from lantern.metrics import high_frequency_share
from lantern.optimize import statistics
from lantern.optimize.parametrize import Fourier, Phase


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def photograph() -> Tensor:
    photo = Image.decode(samples.photographs()["cat"].read_bytes())
    return photo.crop(40, 100, 128, 128).pixels[None]


@pytest.mark.parametrize("size", [(16, 16), (15, 21), (33, 8)])
def test_a_picture_becomes_a_spectrum_and_back(size: tuple[int, int]) -> None:
    start = 0.1 + 0.8 * torch.rand(2, 3, *size, generator=generator())
    canvas = Fourier(start)
    assert canvas.parameters[0].shape == (2, 3, size[0], size[1] // 2 + 1, 2)
    assert torch.allclose(canvas.pixels(), start, atol=1e-4)


def test_colours_are_undone_by_directions() -> None:
    pixels = 0.02 + 0.96 * torch.rand(2, 3, 5, 7, generator=generator())
    assert torch.allclose(statistics.colours(statistics.directions(pixels)), pixels, atol=1e-5)
    grey = statistics.colours(torch.zeros(1, 3, 1, 1)).flatten()
    assert grey.tolist() == pytest.approx([1 / (1 + math.exp(-m)) for m in statistics.MEAN])


def test_the_first_direction_is_brightness() -> None:
    light, dark = torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    light[0, 0], dark[0, 0] = 1, -1
    change = (statistics.colours(light) - statistics.colours(dark)).flatten()
    assert (change > 0.6).all()


def test_directions_of_a_photograph_are_of_unit_spread_and_independent() -> None:
    photos = [Image.decode(path.read_bytes()) for path in samples.photographs().values()]
    squares = torch.stack([photo.cover(128).crop(0, 0, 128, 128).pixels for photo in photos])
    flat = statistics.directions(squares).transpose(0, 1).flatten(1)
    spread = flat.std(1)
    assert ((spread > 0.5) & (spread < 2)).all()
    correlation = torch.corrcoef(flat) - torch.eye(3)
    plain = torch.corrcoef(squares.transpose(0, 1).flatten(1)) - torch.eye(3)
    assert correlation.abs().mean() < 0.6 * plain.abs().mean()


def test_the_magnitudes_are_those_of_photographs(photograph: Tensor) -> None:
    """The photograph was not among those the constants were measured on."""
    spectrum = torch.fft.rfft2(statistics.directions(photograph), norm="ortho").abs()[0]
    frequency = statistics.frequencies(128, 128)
    expected = statistics.magnitudes(128, 128)
    for low, high in ((0.02, 0.05), (0.05, 0.1), (0.1, 0.2)):
        band = (frequency >= low) & (frequency < high)
        ratio = spectrum[0][band].mean() / expected[0][band].mean()
        assert 0.3 < ratio < 3


def test_noise_is_as_smooth_as_photographs_and_the_generators() -> None:
    noise = Fourier.noise((4, 3, 64, 64), generator(), spread=1.0).pixels().detach()
    white = torch.rand(4, 3, 64, 64, generator=generator())
    assert high_frequency_share(noise).max() < 0.2 < 0.6 < high_frequency_share(white).min()
    again = Fourier.noise((4, 3, 64, 64), generator(), spread=1.0).pixels()
    assert torch.equal(again, noise)
    assert not torch.equal(noise[0], noise[1])
    quiet = Fourier.noise((4, 3, 64, 64), generator(), spread=0.01).pixels()
    assert quiet.std((2, 3)).max() < 0.1 * noise.std((2, 3)).min() + 0.02


def test_equal_coefficients_weigh_low_frequencies_more() -> None:
    canvas = Fourier(torch.full((1, 3, 32, 32), 0.5))
    reach = []
    for column in (1, 2, 4, 8, 16):
        with torch.no_grad():
            canvas.parameters[0].zero_()
            canvas.parameters[0][0, 0, 0, column, 0] = 0.1
        reach.append(float(canvas.pixels().detach().std()))
    assert reach == sorted(reach, reverse=True)


def test_only_the_phase_of_maco_is_free(photograph: Tensor) -> None:
    canvas = Phase((2, 3, 32, 48), generator(), torch.device("cpu"))
    (phase,) = canvas.parameters
    with torch.no_grad():
        phase.add_(5 * torch.randn(phase.shape, generator=generator(1)))
    pixels = canvas.pixels().detach()
    assert pixels.shape == (2, 3, 32, 48)
    assert 0 <= pixels.min() < pixels.max() <= 1
    spectrum = torch.fft.rfft2(statistics.directions(pixels), norm="ortho").abs()
    expected = statistics.magnitudes(32, 48)
    # columns whose conjugate is in the array too only keep what is symmetric of them
    inner = slice(1, 24)
    clipped = (pixels < 2 / 255) | (pixels > 253 / 255)
    assert clipped.float().mean() < 0.2
    ratio = spectrum[..., inner] / expected[..., inner]
    assert 0.8 < float(ratio.median()) < 1.2
    assert statistics.directions(pixels).mean((2, 3)).abs().max() < 0.3


def test_gradients_reach_every_coefficient() -> None:
    for canvas in (
        Fourier.noise((1, 3, 16, 16), generator()),
        Phase((1, 3, 16, 16), generator(), torch.device("cpu")),
    ):
        weights = torch.rand(1, 3, 16, 16, generator=generator(2))
        (gradient,) = torch.autograd.grad((canvas.pixels() * weights).sum(), canvas.parameters)
        assert gradient.isfinite().all()
        assert (gradient != 0).float().mean() > 0.4
