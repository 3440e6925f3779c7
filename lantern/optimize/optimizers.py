"""Step rules that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

Measure = Literal["spread", "length", "sign"]


class NormalisedAscent(torch.optim.Optimizer):
    """Step along each sample's gradient over its own size, so that every layer moves alike.

    The size of a gradient is its standard deviation (`spread`), its Euclidean `length`, or that of
    each of its values (`sign`). Samples are the first axis of a parameter.

    Source: the reference notebook of Mordvintsev et al. 2015, which divides by the mean absolute
    gradient; CS231n, assignment 3 (length); Goodfellow et al. 2014, section 4 (sign).
    """

    def __init__(
        self, parameters: Iterable[Tensor], step_size: float, *, by: Measure = "spread"
    ) -> None:
        self._by = by
        super().__init__(parameters, {"lr": step_size})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Evaluate the loss once and take one step down it."""
        loss = None if closure is None else _with_grad(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                direction = _directed(parameter.grad, self._by)
                parameter.sub_(direction, alpha=group["lr"])
        return loss


def _directed(gradient: Tensor, by: Measure) -> Tensor:
    if by == "sign":
        return gradient.sign()
    flat = gradient.flatten(1)
    size = flat.std(1) if by == "spread" else flat.norm(dim=1)
    return gradient / size.clamp_min(1e-12).view(-1, *[1] * (gradient.dim() - 1))


@torch.enable_grad()
def _with_grad(closure: Callable[[], float]) -> float:
    return closure()
