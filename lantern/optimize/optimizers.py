"""Step rules that torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Measure = Literal["spread", "length", "sign"]
Rule = Literal["adam", "l-bfgs"]

# Steps that L-BFGS remembers at most and at least, and the bytes it does so in between.
MOST_STEPS, LEAST_STEPS, MOST_REMEMBERED = 20, 8, 2**29


def takes_turns(rule: Rule) -> bool:
    """Tell whether a rule may be shown another function at each step; else it must stay the same.

    L-BFGS takes the difference of two gradients for curvature.
    """
    return rule == "adam"


def stepping(parameters: Sequence[Tensor], rule: Rule, *, rate: float) -> torch.optim.Optimizer:
    """Return what takes one step for one evaluation of a loss; `rate` is Adam's."""
    if rule == "adam":
        return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))
    # the curvature history is kept between steps
    history = _history(sum(parameter.nbytes for parameter in parameters))
    return torch.optim.LBFGS(parameters, lr=1.0, max_iter=1, history_size=history)


def remembered(rule: Rule, size: float) -> float:
    """Return the bytes that `stepping` and its parameters, of a `size` in bytes, take.

    Gradients belong to it, and a state that is to be stored.
    """
    if rule == "adam":  # two moments
        return size * (4 + 3)
    # of each step its way and the change of the gradient; the last way and gradients
    steps = 2 * _history(size)
    return size * (5 + steps + 3 + steps)


def _history(size: float) -> int:
    """Return how many steps L-BFGS remembers where its parameters take so many bytes."""
    return int(min(MOST_STEPS, max(LEAST_STEPS, MOST_REMEMBERED // max(1, 2 * size))))


class NormalisedAscent(torch.optim.Optimizer):
    """Step along each sample's gradient over its own size, so that every layer moves alike.

    The size of a gradient is its standard deviation (`spread`), its Euclidean `length`, or that of
    each of its values (`sign`). Samples are the first axis of a parameter. With more than one
    level the gradient of pictures `[N,C,H,W]` is split into a Laplacian pyramid first and each
    level divided by its own size, so that grain does not drown the broad forms. With `momentum`,
    that share of the gradients before, each over its mean absolute value, is added first. A sample
    whose gradient is zero stays where it is.

    Source: the reference notebook of Mordvintsev et al. 2015, which divides by the mean absolute
    gradient; CS231n, assignment 3 (length); Goodfellow et al. 2014, section 4 (sign); Mordvintsev
    2016, "DeepDreaming with TensorFlow", "Laplacian Pyramid Gradient Normalization" (levels); Dong
    et al. 2018, "Boosting Adversarial Attacks with Momentum", equation 6.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        step_size: float,
        *,
        by: Measure = "spread",
        levels: int = 1,
        momentum: float = 0.0,
    ) -> None:
        self._by, self._levels, self._momentum = by, levels, momentum
        super().__init__(parameters, {"lr": step_size})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Evaluate the loss once and take one step down it."""
        loss = None if closure is None else _with_grad(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                moves = parameter.grad.flatten(1).any(1)
                self.state[parameter]["taken"] = self.taken(parameter) + moves
                gradient = self._gathered(parameter)
                if self._levels > 1:
                    gradient = _levelled(gradient, self._by, self._levels)
                direction = _directed(gradient, self._by)
                direction = direction * moves.view(-1, *[1] * (direction.dim() - 1))
                parameter.sub_(direction, alpha=group["lr"])
        return loss

    def taken(self, parameter: Tensor) -> Tensor:
        """Return how many steps each sample of a parameter has taken, `[N]`."""
        none = torch.zeros(len(parameter), device=parameter.device)
        taken: Tensor = self.state[parameter].get("taken", none)
        return taken

    def _gathered(self, parameter: Tensor) -> Tensor:
        """Return the gradient, with what is left of those before."""
        assert parameter.grad is not None
        if self._momentum == 0:
            return parameter.grad
        mean = parameter.grad.abs().flatten(1).mean(1).clamp_min(1e-12)
        gradient = parameter.grad / mean.view(-1, *[1] * (parameter.dim() - 1))
        before = self.state[parameter].get("gathered", torch.zeros_like(gradient))
        self.state[parameter]["gathered"] = gradient + self._momentum * before
        gathered: Tensor = self.state[parameter]["gathered"]
        return gathered


def _levelled(gradient: Tensor, by: Measure, levels: int) -> Tensor:
    """Return the sum of the levels of a Laplacian pyramid, each over its own size."""
    height, width = gradient.shape[-2:]
    if levels == 1 or min(height, width) < 2:
        return _directed(gradient, by)
    coarse = _resized(gradient, (height // 2, width // 2))
    fine = gradient - _resized(coarse, (height, width))
    return _directed(fine, by) + _resized(_levelled(coarse, by, levels - 1), (height, width))


def _resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)


def _directed(gradient: Tensor, by: Measure) -> Tensor:
    if by == "sign":
        return gradient.sign()
    flat = gradient.flatten(1)
    size = flat.std(1) if by == "spread" else flat.norm(dim=1)
    return gradient / size.clamp_min(1e-12).view(-1, *[1] * (gradient.dim() - 1))


@torch.enable_grad()
def _with_grad(closure: Callable[[], float]) -> float:
    return closure()
