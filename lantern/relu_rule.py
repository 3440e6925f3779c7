"""Other rules for the way back through rectified units: to explain them, and to wake them."""

from __future__ import annotations

import math
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

hardtanh_backward = torch.ops.aten.hardtanh_backward.default

_IN_PLACE: set[Any] = {
    torch.relu_, Tensor.relu_, F.relu_, F.hardtanh_, torch.threshold_,
    torch.clamp_, Tensor.clamp_, torch.clamp_min_, Tensor.clamp_min_, torch.clip_, Tensor.clip_,
}  # fmt: skip
_RELU: set[Any] = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, F.relu_}
_HARDTANH: set[Any] = {F.hardtanh, F.hardtanh_}
_THRESHOLD: set[Any] = {F.threshold, torch.threshold, torch.threshold_}
_CLAMP: set[Any] = {
    torch.clamp, Tensor.clamp, torch.clamp_, Tensor.clamp_,
    torch.clip, Tensor.clip, torch.clip_, Tensor.clip_,
    torch.clamp_min, Tensor.clamp_min, torch.clamp_min_, Tensor.clamp_min_,
}  # fmt: skip


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
    alone, also where they are written as clamps or thresholds. `reached` counts them.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, section 2.1; Springenberg et al. 2015,
    arXiv:1412.6806, section 3.4; lucid, misc/redirected_relu_grad.py, for `redirected`.
    """

    def __init__(self, rule: Rule | Literal["redirected"]) -> None:
        super().__init__()
        self.reached = 0
        self._rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ceiling = _ceiling(func, args, kwargs)
        if ceiling is None:
            return func(*args, **kwargs)
        return self._rectify(func, ceiling, args, kwargs)

    def _rectify(self, func: Any, ceiling: float, args: Any, kwargs: Any) -> Tensor:
        self.reached += 1
        given: Tensor = args[0] if args else kwargs["input"]
        in_place = func in _IN_PLACE or _option(args, kwargs, func)
        # kept for the way back is what torch itself keeps, or what nobody else sees: writing over
        # it fails only where it fails without the rule
        keeps_made = in_place or func in _RELU
        out: Tensor = _Rectifier.apply(given, ceiling, self._rule, keeps_made)  # type: ignore[no-untyped-call]
        # whoever holds the tensor that was to be written over sees the same as always
        return given.copy_(out) if in_place else out


class _Rectifier(torch.autograd.Function):
    """A ReLU with a ceiling, and one of the rules for its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        ceiling: float,
        rule: Rule | Literal["redirected"],
        keeps_made: bool,
    ) -> Tensor:
        made = given.clamp(0, ceiling)
        ctx.rule, ctx.ceiling = rule, ceiling
        ctx.save_for_backward(made if keeps_made else given)
        return made

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        (kept,) = ctx.saved_tensors  # type: ignore[attr-defined]
        rule: Rule | Literal["redirected"] = ctx.rule  # type: ignore[attr-defined]
        if rule in ("deconvnet", "guided"):
            gradient = gradient.clamp_min(0)
        if rule != "deconvnet":
            # as torch does: a unit at its ceiling passes nothing on
            usual = hardtanh_backward(gradient, kept, 0, ctx.ceiling)  # type: ignore[attr-defined]
            gradient = _redirected(gradient, usual, kept) if rule == "redirected" else usual
        return gradient, None, None, None


def _redirected(gradient: Tensor, usual: Tensor, kept: Tensor) -> Tensor:
    """Return the usual gradient; of a sample that has none, of units it would bring into play."""
    # a column nearly always tells that no sample is silent, and is much less to read than all
    if usual.dim() > 2 and not _is_silent(usual[..., usual.shape[-1] // 2]).any():
        return usual
    is_silent = _is_silent(usual)
    if not is_silent.any():
        return usual
    # down a loss units go up where its gradient is negative, down from the ceiling where positive
    helps = torch.where(kept <= 0, gradient < 0, gradient > 0)
    return torch.where(is_silent.view(-1, *[1] * (gradient.dim() - 1)), gradient * helps, usual)


def _is_silent(gradient: Tensor) -> Tensor:
    """Tell of each sample of `[N,...]` whether all of it is zero, `[N]`."""
    sides = tuple(range(1, gradient.dim()))
    largest: Tensor = torch.linalg.vector_norm(gradient, math.inf, dim=sides)
    return largest == 0


def _ceiling(func: Any, args: Any, kwargs: Any) -> float | None:
    """Return where a call of a ReLU, however it is written, cuts off above; None of another call.

    A ReLU may be written as a hard hyperbolic tangent, as a threshold and as a clamp.
    """
    if func in _RELU:
        return math.inf
    if func is F.relu6:
        return 6.0
    if func in _HARDTANH:
        bounds = _given(("min_val", "max_val"), args, kwargs, (-1.0, 1.0))
        return 6.0 if bounds == (0.0, 6.0) else None
    if func in _THRESHOLD:
        bounds = _given(("threshold", "value"), args, kwargs, (None, None))
        return math.inf if bounds == (0, 0) else None
    if func in _CLAMP and _is_on_the_way_back(args, kwargs):
        low, high = _given(("min", "max"), args, kwargs, (None, None))
        is_number = all(isinstance(bound, int | float | None) for bound in (low, high))
        if is_number and low == 0 and high in (None, 6, math.inf):
            return math.inf if high is None else float(high)
    return None


def _given(names: tuple[str, str], args: Any, kwargs: Any, default: tuple[Any, Any]) -> Any:
    """Return two arguments, which come behind the tensor or by name."""
    found = dict(zip(names, default, strict=True))
    found |= dict(zip(names, args[1:], strict=False))
    return tuple((found | kwargs)[name] for name in names)


def _is_on_the_way_back(args: Any, kwargs: Any) -> bool:
    """Tell what is computed from the picture from indices and the like, which are clamped too."""
    given = args[0] if args else kwargs.get("input")
    is_value = isinstance(given, Tensor) and given.is_floating_point() and given.requires_grad
    return is_value and "out" not in kwargs


def _option(args: Any, kwargs: Any, func: Any) -> bool:
    """Return the argument `inplace` of a function of `torch.nn.functional`."""
    if func in _CLAMP:
        return False
    place = 3 if func in (F.hardtanh, F.threshold) else 1
    return bool(kwargs.get("inplace", args[place] if len(args) > place else False))
