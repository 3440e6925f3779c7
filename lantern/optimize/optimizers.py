"""Step rules that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class NormalisedAscent(torch.optim.Optimizer):
    """Step along the gradient over its standard deviation, so that every layer moves alike.

    Source: the reference notebook of Mordvintsev et al. 2015, which divides by the mean absolute
    gradient.
    """

    def __init__(self, parameters: Iterable[Tensor], step_size: float) -> None:
        super().__init__(parameters, {"lr": step_size})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Evaluate the loss once and take one step down it."""
        loss = None if closure is None else _with_grad(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                spread = parameter.grad.std().clamp_min(1e-12)
                parameter.sub_(parameter.grad / spread, alpha=group["lr"])
        return loss


@torch.enable_grad()
def _with_grad(closure: Callable[[], float]) -> float:
    return closure()
