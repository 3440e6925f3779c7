"""Pictures that are changed by little, and only in ways that a file of 8 bits can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]

# Highest level of a value in a file of 8 bits.
WHITE = 255
# Halvings in the search for a factor.
HALVINGS = 16


@dataclass(frozen=True)
class Bound:
    """How far a picture may be changed: any value (`linf`) or all together as a length (`l2`).

    `epsilon` is in levels of 255; 1 at least, for nothing smaller can be written to a file.
    """

    norm: Norm
    epsilon: float

    def project(self, change: Tensor) -> Tensor:
        """Return the nearest change `[N,...]` within the bound, levels."""
        if self.norm == "linf":
            return change.clamp(-self.epsilon, self.epsilon)
        share = (self.epsilon / _length(change).clamp_min(1e-12)).clamp_max(1)
        return change * share.to(change.dtype)

    def rounded(self, change: Tensor) -> Tensor:
        """Return a change `[N,...]` within the bound in whole levels, still within it."""
        if self.norm == "linf":
            most = math.floor(self.epsilon)
            return change.round().clamp(-most, most)
        return _rounded(change, self.epsilon)

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Draw a change of `shape`, without an axis of samples, evenly from within the bound."""
        if self.norm == "linf":
            return (torch.rand(shape, generator=generator) * 2 - 1) * self.epsilon
        direction = torch.randn(shape, generator=generator)
        # in a ball of so many dimensions nearly all of the volume lies near its surface
        share = torch.rand((), generator=generator).double().pow(1 / shape.numel()).float()
        drawn: Tensor = direction / direction.norm() * share * self.epsilon
        return drawn


class Perturbation:
    """Pictures as a start in whole levels plus a change, which is rounded as a file rounds it.

    The parameter is the change `[N,3,H,W]` in multiples of `unit`, levels of 255 or one number for
    each channel. `pixels()` are exactly what is read back from a PNG; gradients pass the rounding
    unchanged, so that small steps add up.
    """

    def __init__(
        self, start: Tensor, *, bound: Bound | None = None, unit: float | Tensor = 1.0
    ) -> None:
        """Begin with the pictures `start`, `[N,3,H,W]` in 0..1; they are rounded first."""
        self.start = start.detach().clamp(0, 1).mul(WHITE).round()
        self._bound, self._unit = bound, unit
        self.parameters = [torch.zeros_like(self.start).requires_grad_()]

    def pixels(self) -> Tensor:
        """Return the pictures; every value is a whole level."""
        change = self.parameters[0] * self._unit / WHITE
        # the difference is zero: it only carries the gradient
        return (self.start + self.rounded()) / WHITE + (change - change.detach())

    def rounded(self) -> Tensor:
        """Return the change in whole levels, within the bound."""
        change = self.parameters[0].detach() * self._unit
        whole = change.round() if self._bound is None else self._bound.rounded(change)
        return self._within_white(whole)

    def project(self) -> None:
        """Bring the change back within the bound and the pictures into 0..1."""
        with torch.no_grad():
            change = self.parameters[0] * self._unit
            if self._bound is not None:
                change = self._bound.project(change)
            self.parameters[0].copy_(self._within_white(change) / self._unit)

    def _within_white(self, change: Tensor) -> Tensor:
        """Return a change cut off where a picture would leave 0..255."""
        return change.clamp(-self.start, WHITE - self.start)

    def scatter(self, generator: torch.Generator) -> None:
        """Begin at a random change within the bound, the same for every picture."""
        if self._bound is not None:
            change = self._bound.draw(self.start.shape[1:], generator).to(self.start.device)
            with torch.no_grad():
                self.parameters[0].copy_((change / self._unit).expand_as(self.start))
            self.project()


def _rounded(change: Tensor, longest: float) -> Tensor:
    """Round changes `[N,...]` to whole levels, no sample to a length above its own or `longest`.

    A short change spread over many pixels has no value of half a level: rounded as it is, nothing
    would be left of it. So it is scaled to the factor that keeps the length best.
    """
    length = _length(change)
    limit = length.clamp_max(longest)
    largest = change.abs().flatten(1).amax(1).view_as(length).clamp_min(1e-12)
    low = torch.zeros_like(largest)
    high = ((length + 1) / largest).to(change.dtype)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = _length((change * middle).round()) <= limit
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return (change * low).round()


def _length(change: Tensor) -> Tensor:
    """Return the Euclidean length of each sample as float64, shaped to be multiplied with them."""
    squares = change.flatten(1).square().sum(1, dtype=torch.float64)
    return squares.sqrt().view(-1, *[1] * (change.dim() - 1))
