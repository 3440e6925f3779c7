"""The way back through a transformer: attention rollout, and relevance by AttnLRP.

Both are a gradient under other rules, like those of `relu_rule`. Functions are caught, not modules,
so that networks of any author, with or without windows, merged patches or a class token, need no
code of their own: the gradient finds the way from the class to the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lantern.errors import InvalidParameter

Flow = Literal["attn-lrp", "rollout"]

_SOFTMAX: set[Any] = {F.softmax, torch.softmax, Tensor.softmax}
_CONVOLUTION: set[Any] = {torch.conv2d, F.conv2d}
_SCALING: set[Any] = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
_PRODUCT: set[Any] = {
    torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.bmm, Tensor.__matmul__, *_SCALING
}  # fmt: skip
_POINTWISE: set[Any] = {
    F.gelu, F.silu, F.relu, F.relu6, F.hardswish, F.leaky_relu, F.elu, F.softplus, F.mish,
    torch.relu, Tensor.relu, torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid,
}  # fmt: skip
_NORM: set[Any] = {F.layer_norm, torch.layer_norm}
_RMS_NORM: set[Any] = {F.rms_norm, torch.rms_norm}
# An activation so close to zero has the slope it has there.
_NEAR_ZERO = 1e-6
# How far from even a token's share may be among its channels.
_UNEVEN = 1e-3


@dataclass(frozen=True)
class Found:
    """A map `[h,w]` over the patches, the logits `[1,C]` and the number of attention layers."""

    field: Tensor
    logits: Tensor
    layers: int


class AttentionFlow(TorchFunctionMode):
    """While active, gradients pass attention, norms and activations by the rules of a method.

    `patches` is what the last convolution before the first attention made, `[N,C,h,w]`: a leaf, the
    gradient of which is the map. `layers` counts the attention layers.

    `attn-lrp` shares out the class score: products give half to each factor, activations keep the
    ratio of what came out to what went in, norms are divisions by a constant.
    Source: Achtibat et al. 2024, arXiv:2402.05602, section 3, in the form of a modified gradient.

    `rollout` follows attention alone: a token takes one half from itself and one from those it
    looks at, the mean of all heads. Everything that works on tokens one by one hands a share on as
    it is. Source: Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    """

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.patches: Tensor | None = None
        self.layers = 0
        self._flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._all_heads(*args, **kwargs), None
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func(*args, **kwargs), *args, **kwargs)
        if func in _CONVOLUTION:
            return self._convolve(func(*args, **kwargs))
        if func in _NORM:
            return self._norm(func, *args, **kwargs)
        if func in _RMS_NORM:
            return self._rms_norm(func, *args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if func in _POINTWISE:
            given = (args[0] if args else kwargs["input"]).clone()  # it may be written over
            return self._pointwise(func(*args, **kwargs), given)
        if func in _PRODUCT:
            return self._product(func, args, kwargs)
        return func(*args, **kwargs)

    def _convolve(self, out: Tensor) -> Tensor:
        if self.layers == 0:  # the last of these holds the patches
            self.patches = out.detach().requires_grad_()
            return self.patches.clone()
        if self._flow == "rollout":
            raise _not_even()
        return out

    def _softmax(
        self, out: Tensor, given: Tensor, dim: int | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """Tell attention, `[...,queries,keys]`, from other shares."""
        is_last = dim in (-1, out.dim() - 1)
        return self._weights(out) if is_last and out.dim() > 2 and out.shape[-1] > 1 else out

    def _weights(self, weights: Tensor) -> Tensor:
        self.layers += 1
        return weights.detach() if self._flow == "rollout" else weights

    def _linear(self, given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = F.linear(given, weight, bias)
        if self._flow == "rollout":
            out = _handed_on(given, out)
        return out

    def _pointwise(self, out: Tensor, given: Tensor) -> Tensor:
        if self._flow == "rollout":
            return _as_if(out, given)
        is_flat = given.abs() < _NEAR_ZERO
        ratio = (out / given.masked_fill(is_flat, 1.0)).masked_fill(is_flat, 0.5)
        return _as_if(out, given, ratio)

    def _norm(
        self,
        func: Any,
        input: Tensor,  # torch's name, by which it may be given
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        out: Tensor = func(input, normalized_shape, weight, bias, eps)
        if self._flow == "rollout":
            return _as_if(out, input)
        centred = input - input.mean(_last(normalized_shape), keepdim=True)
        return _as_divided(out, centred, normalized_shape, weight, eps)

    def _rms_norm(
        self,
        func: Any,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        out: Tensor = func(input, normalized_shape, weight, eps)
        if self._flow == "rollout":
            return _as_if(out, input)
        least = torch.finfo(input.dtype).eps if eps is None else eps
        return _as_divided(out, input, normalized_shape, weight, least)

    def _product(self, func: Any, args: Any, kwargs: Any) -> Any:
        flat = [part for a in args for part in (a if isinstance(a, (tuple, list)) else (a,))]
        factors = [a for a in flat if isinstance(a, Tensor) and a.requires_grad]
        if self._flow == "rollout":
            # a token's own scale is part of what works on tokens one by one
            is_scaling = func in _SCALING and len(factors) == 1
            out = func(*args, **kwargs)
            return _as_if(out, factors[0]) if is_scaling else out
        if len(factors) < 2:
            return func(*args, **kwargs)
        halved = [
            type(a)(map(_half, a)) if isinstance(a, (tuple, list)) else _half(a) for a in args
        ]
        return func(*halved, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Do what `scaled_dot_product_attention` does, `[...,heads,tokens,channels]`, in steps."""
        if is_causal or enable_gqa:
            raise _unknown_attention()
        scores = self._multiply(query, key.transpose(-2, -1)) * (
            query.shape[-1] ** -0.5 if scale is None else scale
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._multiply(self._weights(scores.softmax(-1)), value)

    def _multiply(self, one: Tensor, other: Tensor) -> Tensor:
        if self._flow == "attn-lrp":
            one, other = _half(one), _half(other)
        return one @ other

    def _all_heads(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """Do what `nn.MultiheadAttention` does, `[tokens,N,channels]`, in steps."""
        masks = (options.get("attn_mask"), options.get("key_padding_mask"))
        if in_proj_weight is None or bias_k is not None or add_zero_attn or masks != (None, None):
            raise _unknown_attention()
        if query is key and key is value:
            parts = self._linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
        else:
            biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
            given = zip((query, key, value), in_proj_weight.chunk(3), biases, strict=True)
            parts = tuple(self._linear(*one) for one in given)
        count = query.shape[1]
        heads = [part.reshape(len(part), count * num_heads, -1).transpose(0, 1) for part in parts]
        joined = (
            self._attend(heads[0], heads[1], heads[2])
            .transpose(0, 1)
            .reshape(len(query), count, -1)
        )
        return self._linear(joined, out_proj_weight, out_proj_bias)


def flow_back(
    forward: Callable[[Tensor], Tensor],
    pixels: Tensor,
    choose: Callable[[Tensor], int],
    flow: Flow,
) -> Found:
    """Pass a picture `[1,3,S,S]` through a network and its class back to the patches.

    `choose` gets the logits `[1,C]` and returns the class.

    Raises:
        InvalidParameter: the network has no attention, or of a kind that is not followed.
    """
    mode = AttentionFlow(flow)
    with torch.enable_grad():
        with mode:
            logits = forward(pixels.detach())
        patches = mode.patches
        is_grid = patches is not None and patches[0, 0].numel() > 1
        if mode.layers == 0 or patches is None or not is_grid or not logits.requires_grad:
            raise InvalidParameter(
                "the network has no attention between its patches and its classes; choose a vision "
                "transformer, as vit-b-16 or swin-t",
                pointer="/params/model",
            )
        (gradient,) = torch.autograd.grad(logits[0, choose(logits.detach())], patches)
    logits, layers = logits.detach(), mode.layers
    if flow == "attn-lrp":
        return Found((patches.detach() * gradient).sum(1)[0], logits, layers)
    shares = gradient[0].mean(0)
    if (gradient[0] - shares).abs().max() > _UNEVEN * shares.abs().max().clamp_min(1e-12):
        raise _not_even()
    return Found(shares / shares.sum().clamp_min(1e-12), logits, layers)


def _half(value: Any) -> Any:
    """Return the same value with half of its gradient."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    return (value + value.detach()) / 2


def _as_if(out: Tensor, given: Tensor, ratio: Tensor | float = 1.0) -> Tensor:
    """Return `out` as if it had come from `given` by a multiplication with a constant."""
    if isinstance(ratio, Tensor):
        ratio = ratio.detach()
    return out.detach() + (given - given.detach()) * ratio


def _as_divided(
    out: Tensor, given: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float
) -> Tensor:
    """Return `out` as if `given` had been divided by its root mean square as by a constant."""
    fixed = (given.detach().square().mean(_last(shape), keepdim=True) + eps).rsqrt()
    return _as_if(out, given, fixed if weight is None else fixed * weight)


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the last axes, as many as there are in a shape."""
    return tuple(range(-len(shape), 0))


class _HandedOn(torch.autograd.Function):
    """A linear layer that hands on what a token is given: the mean of its channels, to each.

    Channels that nothing came to, as those of queries and keys, do not count.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, out: Tensor) -> Tensor:
        ctx.width = given.shape[-1]
        return out.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        counted = (gradient != 0).sum(-1, keepdim=True).clamp_min(1)
        share = gradient.sum(-1, keepdim=True) / counted
        return share.expand(*share.shape[:-1], ctx.width), None


def _handed_on(given: Tensor, out: Tensor) -> Tensor:
    handed: Tensor = _HandedOn.apply(given, out)  # type: ignore[no-untyped-call]
    return handed


def _not_even() -> InvalidParameter:
    return InvalidParameter(
        "rollout follows networks whose tokens meet in attention alone, and this one has other "
        "layers between; choose attn-lrp",
        pointer="/params/method",
    )


def _unknown_attention() -> InvalidParameter:
    return InvalidParameter(
        "the network's attention is masked, causal or grouped, which is not followed; choose "
        "another network",
        pointer="/params/model",
    )
