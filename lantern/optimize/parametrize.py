"""What an optimiser changes in place of bare pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize import statistics

# How fast the coefficients of a natural picture fall with their frequency (photographs: 1.2 to
# 1.4), and how far a step on one of them changes the picture: both chosen by eye.
DECAY, CONTRAST = 1.3, 0.4


class Canvas(Protocol):
    """Pictures as a function of parameters, which an optimiser changes."""

    parameters: list[Tensor]

    def pixels(self) -> Tensor:
        """Return the pictures `[N,3,H,W]`, sRGB, 0..1."""
        ...

    def project(self) -> None:
        """Bring the parameters back into what is legal, after a step and without a graph."""
        ...


class Separate(Canvas, Protocol):
    """Pictures that have one parameter, `[N,...]`, each its own share of it."""

    def draw(self, shares: Tensor) -> Tensor:
        """Return the pictures of some shares of the parameter."""
        ...


class Pixels:
    """Pictures as themselves, `[N,3,H,W]`."""

    def __init__(self, start: Tensor) -> None:
        self.parameters = [start.detach().clone().requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the pictures."""
        return self.parameters[0]

    def draw(self, shares: Tensor) -> Tensor:
        """Return them as they are."""
        return shares

    def project(self) -> None:
        """Clip to 0..1."""
        with torch.no_grad():
            self.parameters[0].clamp_(0, 1)


class Pyramid:
    """Pictures as their start plus a sum of levels, each half the size of the one before.

    A step on a coarse level moves whole regions at once, so that broad strokes and colour come
    before grain. `parameters` are the levels, `[N,3,h,w]`.

    Source: Olah et al. 2017, "Feature Visualization", preconditioning; here in pixels, not in
    frequencies.
    """

    def __init__(self, start: Tensor, *, levels: int) -> None:
        self._start = start
        height, width = start.shape[-2:]
        self.parameters = [
            torch.zeros(
                *start.shape[:2], max(1, height >> n), max(1, width >> n), device=start.device
            ).requires_grad_()
            for n in range(levels)
        ]

    def pixels(self) -> Tensor:
        """Return the pictures, clipped to 0..1."""
        size = self._start.shape[-2:]
        total = self._start
        for level in self.parameters:
            total = total + F.interpolate(level, size=size, mode="bilinear", align_corners=False)
        return total.clamp(0, 1)

    def project(self) -> None:
        """Do nothing: the pictures are clipped when they are made."""


class Fourier:
    """Pictures as decorrelated Fourier coefficients: steps are natural in colour and in scale.

    The parameter `[N,3,H,W/2+1,2]` holds complex coefficients over the mean magnitude of natural
    pictures at their frequency, to the power of `decay`; the colours are principal directions.

    Source: Olah et al. 2017, "Feature Visualization", "Preconditioning and Parameterization".
    """

    def __init__(self, start: Tensor, *, decay: float = DECAY) -> None:
        """Begin with the pictures `start`, `[N,3,H,W]` in 0..1."""
        self._size = (int(start.shape[-2]), int(start.shape[-1]))
        frequency = statistics.frequencies(*self._size).to(start.device)
        self._scale = CONTRAST * (frequency / frequency.square().mean().sqrt()) ** -decay
        spectrum = torch.fft.rfft2(statistics.directions(start), norm="ortho") / self._scale
        self.parameters = [torch.view_as_real(spectrum).detach().clone().requires_grad_()]

    @staticmethod
    def noise(
        shape: Sequence[int],
        generator: torch.Generator,
        *,
        decay: float = DECAY,
        spread: float = 0.1,
    ) -> Fourier:
        """Begin with `shape` `[N,3,H,W]` of noise that has the spectrum of photographs."""
        canvas = Fourier(torch.full(tuple(shape), 0.5), decay=decay)
        with torch.no_grad():
            (spectrum,) = canvas.parameters
            spectrum.copy_(spread * torch.randn(spectrum.shape, generator=generator))
        return canvas

    def pixels(self) -> Tensor:
        """Return the pictures."""
        return self.draw(self.parameters[0])

    def draw(self, shares: Tensor) -> Tensor:
        """Return the pictures of coefficients `[n,3,H,W/2+1,2]`."""
        spectrum = torch.view_as_complex(shares) * self._scale
        return statistics.colours(torch.fft.irfft2(spectrum, s=self._size, norm="ortho"))

    def project(self) -> None:
        """Do nothing: every spectrum is a picture."""

    def to(self, device: torch.device) -> Fourier:
        """Move to a device, before an optimiser has seen it."""
        self._scale = self._scale.to(device)
        self.parameters = [p.detach().to(device).requires_grad_() for p in self.parameters]
        return self


class Phase:
    """Pictures whose spectrum has the magnitude of photographs; only its phase is free.

    The parameter is the phase, `[N,3,H,W/2+1]`, in radians.

    Source: Fel et al. 2023, "Unlocking Feature Visualization for Deep Networks with MAgnitude
    Constrained Optimization" (MACO), equation 3.
    """

    def __init__(
        self, shape: Sequence[int], generator: torch.Generator, device: torch.device
    ) -> None:
        n, _, height, width = shape
        self._size = (height, width)
        self._magnitude = statistics.magnitudes(height, width).to(device)
        phase = torch.rand(n, 3, height, width // 2 + 1, generator=generator) * 2 - 1
        self.parameters = [(phase * torch.pi).to(device).requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the pictures."""
        return self.draw(self.parameters[0])

    def draw(self, shares: Tensor) -> Tensor:
        """Return the pictures of phases `[n,3,H,W/2+1]`."""
        spectrum = torch.polar(self._magnitude.expand_as(shares), shares)
        waves = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        # the constant part is no wave: its phase must not decide how bright the picture is
        return statistics.colours(waves - waves.mean((2, 3), keepdim=True))

    def project(self) -> None:
        """Do nothing: every phase is a picture."""
