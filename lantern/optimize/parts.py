"""A sum over parts of pictures and its gradient, one part at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Part(Protocol):
    """Some of the pictures, or a piece of each."""

    def of(self, pictures: Tensor) -> Tensor:
        """Return this part of pictures `[N,3,H,W]`, a view."""
        ...


PartT = TypeVar("PartT", bound=Part)


@dataclass(frozen=True)
class Few:
    """The looks `first` to `last`, the end excluded, of so many at `each` picture of a batch."""

    first: int
    last: int
    each: int = 1

    def of(self, pictures: Tensor) -> Tensor:
        """Return the pictures of `[N,...]` that are looked at, a view."""
        return pictures[self.first // self.each : -(-self.last // self.each)]

    def looks(self, seen: Tensor) -> Tensor:
        """Return for each look its picture of those that are looked at."""
        if self.each == 1:
            return seen
        places = torch.arange(self.first, self.last, device=seen.device)
        # not `seen[...]`, whose gradient threads add up in any order
        return seen.index_select(0, places // self.each - self.first // self.each)

    def drawn(self, chances: Tensor) -> Tensor:
        """Return what was drawn for these looks, of `[N * each,...]`, a view."""
        return chances[self.first : self.last]


def by(most: int, count: int, each: int = 1) -> list[Few]:
    """Part the looks at `count` pictures, so many at each, by `most` at a time."""
    looks = count * each
    return [Few(at, min(at + most, looks), each) for at in range(0, looks, most)]


def summed(
    function: Callable[[Tensor, PartT], Tensor], pictures: Tensor, parts: Sequence[PartT]
) -> Tensor:
    """Return the sum of `function(pixels of a part, part)` over the parts, a scalar.

    The function gets a part of pictures `[N,3,H,W]` and returns a scalar. Its gradient is taken as
    soon as it has been called: only the activations of one part are alive at a time.
    """
    total: Tensor = _Summed.apply(pictures, function, parts)  # type: ignore[no-untyped-call]
    return total


class _Summed(torch.autograd.Function):
    """Computes value and gradient together, so that nothing has to be kept for later."""

    @staticmethod
    def forward(
        ctx: Any,
        pictures: Tensor,
        function: Callable[[Tensor, PartT], Tensor],
        parts: Sequence[PartT],
    ) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(pictures) if wants_gradient else pictures.new_empty(0)
        total = pictures.new_zeros(())
        for part in parts:
            seen = part.of(pictures).detach()
            with torch.set_grad_enabled(wants_gradient):
                value = function(seen.requires_grad_(wants_gradient), part)
                if wants_gradient:
                    (slope,) = torch.autograd.grad(value, seen)
                    part.of(gradient).add_(slope)
            total += value.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None
