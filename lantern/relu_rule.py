"""Other rules for the way back through rectified units: deconvnet and guided backpropagation."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

Rule = Literal["vanilla", "deconvnet", "guided"]

_IN_PLACE: set[Any] = {torch.relu_, Tensor.relu_, F.relu_}
_RELU: set[Any] = {F.relu, torch.relu, Tensor.relu, *_IN_PLACE}
_RELU6: set[Any] = {F.relu6, F.hardtanh, F.hardtanh_}


class ReluRule(TorchFunctionMode):
    """While active, gradients pass every ReLU and ReLU6 by a rule; nothing else changes.

    `vanilla` lets through what comes to a unit that was on, `deconvnet` what is positive, `guided`
    what is both. Calls of functions are caught, not modules: so functional, reused and in-place
    ReLUs follow the rule too, and the network is left alone. `reached` counts them.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1; Springenberg et al. 2015,
    arXiv:1412.6806, section 3.4.
    """

    def __init__(self, rule: Rule) -> None:
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
    def forward(ctx: Any, given: Tensor, ceiling: float, rule: Rule) -> Tensor:
        ctx.rule = rule
        # as torch does: a unit at its ceiling passes nothing on
        ctx.save_for_backward((given > 0) & (given < ceiling))
        return given.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (is_on,) = ctx.saved_tensors  # type: ignore[attr-defined]
        rule: Rule = ctx.rule  # type: ignore[attr-defined]
        if rule != "vanilla":
            gradient = gradient.clamp_min(0)
        return gradient if rule == "deconvnet" else gradient * is_on, None, None


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
