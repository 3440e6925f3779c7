"""Other rules for the way back through rectified units: to explain them, and to wake them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

Rule = Literal["vanilla", "deconvnet", "guided"]
# Steps of an ascent in which silent units are woken.
WAKES = 16

_IN_PLACE: set[Any] = {torch.relu_, Tensor.relu_, F.relu_}
_RELU: set[Any] = {F.relu, torch.relu, Tensor.relu, *_IN_PLACE}
_RELU6: set[Any] = {F.relu6, F.hardtanh, F.hardtanh_}


def waking(step: int) -> AbstractContextManager[object]:
    """Return what lets a loss wake silent units in the first steps of a descent, and then nothing.

    A neuron behind a ReLU that is off for the picture an ascent begins with has no gradient, and
    would stay off for ever.
    """
    return ReluRule("redirected") if step < WAKES else nullcontext()


class ReluRule(TorchFunctionMode):
    """While active, gradients pass every ReLU and ReLU6 by a rule; nothing else changes.

    `vanilla` lets through what comes to a unit that was on, `deconvnet` what is positive, `guided`
    what is both. `redirected` is for a loss that is descended: of a sample of which a ReLU would
    let nothing through, it lets through what switches units on. Calls of functions are caught, not
    modules: so functional, reused and in-place ReLUs follow the rule too, and the network is left
    alone. `reached` counts them.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1; Springenberg et al. 2015,
    arXiv:1412.6806, section 3.4; lucid, misc/redirected_relu_grad.py, for `redirected`.
    """

    def __init__(self, rule: Rule | Literal["redirected"]) -> None:
        super().__init__()
        self.reached = 0
        self._rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RELU:
            return self._rectify(func, float("inf"), args, kwargs)
        if func in _RELU6 and _is_relu6(func, args, kwargs):
            return self._rectify(func, 6.0, args, kwargs)
        return func(*args, **kwargs)

    def _rectify(self, func: Any, ceiling: float, args: Any, kwargs: Any) -> Tensor:
        self.reached += 1
        given: Tensor = args[0] if args else kwargs["input"]
        in_place = func in _IN_PLACE or func is F.hardtanh_ or _option(args, kwargs, func)
        out: Tensor = _Rectifier.apply(given, ceiling, self._rule)  # type: ignore[no-untyped-call]
        # whoever holds the tensor that was to be written over sees the same as always
        return given.copy_(out) if in_place else out


class _Rectifier(torch.autograd.Function):
    """A ReLU with a ceiling, and one of the rules for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, given: Tensor, ceiling: float, rule: Rule | Literal["redirected"]
    ) -> Tensor:
        ctx.rule = rule
        # as torch does: a unit at its ceiling passes nothing on
        is_on = (given > 0) & (given < ceiling)
        ctx.save_for_backward(is_on, given <= 0 if rule == "redirected" else None)
        return given.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        is_on, is_off = ctx.saved_tensors  # type: ignore[attr-defined]
        rule: Rule | Literal["redirected"] = ctx.rule  # type: ignore[attr-defined]
        if rule == "redirected":
            return _redirected(gradient, is_on, is_off), None, None
        if rule != "vanilla":
            gradient = gradient.clamp_min(0)
        return gradient if rule == "deconvnet" else gradient * is_on, None, None


def _redirected(gradient: Tensor, is_on: Tensor, is_off: Tensor) -> Tensor:
    """Return the gradient; of a sample that would have none, of units it would bring into play."""
    usual = gradient * is_on
    # down a loss units go up where its gradient is negative, down from the ceiling where positive
    helps = torch.where(is_off, gradient < 0, gradient > 0)
    is_silent = ~usual.flatten(1).any(1)
    return torch.where(is_silent.view(-1, *[1] * (gradient.dim() - 1)), gradient * helps, usual)


def _is_relu6(func: Any, args: Any, kwargs: Any) -> bool:
    """Tell a ReLU6, which may be written as a hard hyperbolic tangent, from others of that name."""
    if func is F.relu6:
        return True
    given = dict(zip(("input", "min_val", "max_val"), args, strict=False)) | kwargs
    return (given.get("min_val", -1.0), given.get("max_val", 1.0)) == (0.0, 6.0)


def _option(args: Any, kwargs: Any, func: Any) -> bool:
    """Return the argument `inplace` of a function of `torch.nn.functional`."""
    place = 3 if func is F.hardtanh else 1
    return bool(kwargs.get("inplace", args[place] if len(args) > place else False))
