"""What goes back through a network, written down as a network of its own.

So it can be compiled like any other: the gradient of class scores takes half the time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

Step = Callable[..., Any]


class CannotRecord(Exception):
    """A network does something that cannot be written down."""


def backward_network(
    scores: Callable[[Tensor], Tensor], pixels: Tensor, weights: Tensor
) -> fx.GraphModule:
    """Return a network: pixels `[N,C,H,W]`, weights `[N,K]` -> gradient of the weighted scores.

    It is what passes, forward and back, when `scores` sees `pixels`: for pixels of that shape, and
    for functions that do the same to whatever they see. What takes no part in it is left out.

    Raises:
        CannotRecord: something that the way takes cannot be written down.
    """
    recorder = _Recorder([pixels, weights])
    leaf = pixels.detach().clone().requires_grad_()
    recorder.is_known(leaf, as_is=pixels)
    with torch.inference_mode(mode=False), torch.enable_grad(), recorder:
        (gradient,) = torch.autograd.grad((scores(leaf) * weights).sum(), leaf)
    return recorder.network(gradient)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what torch does with some tensors; all others are constants."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = fx.Graph(), dict[str, Tensor]()
        # an id stays taken while its tensor lives
        self._nodes, self._alive = dict[int, fx.Node](), list[Tensor]()
        for number, tensor in enumerate(inputs):
            self._is(tensor, self._graph.placeholder(f"input_{number}"))

    def is_known(self, tensor: Tensor, *, as_is: Tensor) -> None:
        """Take a tensor for another."""
        self._is(tensor, self._nodes[id(as_is)])

    def network(self, result: Tensor) -> fx.GraphModule:
        """Return what makes `result` of the inputs."""
        if id(result) not in self._nodes:
            raise CannotRecord("the result does not depend on what was recorded")
        self._graph.output((self._nodes[id(result)],))
        self._graph.eliminate_dead_code()
        return fx.GraphModule(dict(self._constants), self._graph)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that nothing is compiled here: else torch's compiler is loaded to leave it out."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INSTEAD:
            made = _INSTEAD[func](self, *args, **kwargs)
            if made is not NotImplemented:
                return made
        with self:  # what is made of other functions is written as these
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        made = func(*args, **kwargs)
        if func in (aten.detach.default, aten.alias.default):
            if id(args[0]) in self._nodes:
                self.is_known(made, as_is=args[0])
        elif any(id(t) in self._nodes for t in _tensors((args, kwargs))):
            self._note(func, args, kwargs, made)
        return made

    def _note(self, func: Any, args: Any, kwargs: Mapping[str, Any], made: Any) -> None:
        given, named = (tree_map_only(Tensor, self._node, each) for each in (args, kwargs))
        given = [list(each) if isinstance(each, tuple) else each for each in given]
        node = self._graph.call_function(_that_returns(func), tuple(given), dict(named))
        if isinstance(made, Tensor):
            self._is(made, node)
        elif not isinstance(made, tuple | list):
            raise CannotRecord(f"{func} makes a number, which may differ for other pixels")
        else:
            for place, part in enumerate(made):
                if isinstance(part, Tensor):
                    picked = self._graph.call_function(operator.getitem, (node, place))
                    self._is(part, picked)

    def _node(self, tensor: Tensor) -> fx.Node:
        """Return where a tensor comes from, as a constant if nothing was seen to make it."""
        if id(tensor) not in self._nodes:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = tensor.detach()
            self._is(tensor, self._graph.get_attr(name))
        return self._nodes[id(tensor)]

    def _is(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)


def _tensors(given: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))


def _that_returns(func: Any) -> Any:
    """Return the function that makes a new tensor where another writes over the one it is given."""
    if not func._schema.is_mutable:
        return func
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    if packet is None or func._overloadname not in packet.overloads():
        raise CannotRecord(f"{name} writes over what it is given")
    return getattr(packet, func._overloadname)


# --- Steps back, written as others -------------------------------------------------------------


def _convolution(
    recorder: _Recorder,
    gradient: Tensor,
    given: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Convolve with the kernel turned round, which is quicker than a transposed convolution."""
    if transposed or weight.dim() != 4 or any(wanted[1:]):
        raise CannotRecord("only convolutions of maps, with weights that stay, are gone back")
    sides = weight.shape[2:]
    around = [d * (k - 1) - p for d, k, p in zip(dilation, sides, padding, strict=True)]
    if set(stride) == {1} and min(around) >= 0:
        kernel = _turned(weight, groups)
        with recorder:
            found = F.conv2d(gradient, kernel, None, 1, around, dilation, groups)
        return found, None, None
    sizes = zip(given.shape[2:], gradient.shape[2:], stride, around, padding, strict=True)
    rest = [whole - (n - 1) * step - more + p - 1 for whole, n, step, more, p in sizes]
    with recorder:
        found = F.conv_transpose2d(gradient, weight, None, stride, padding, rest, groups, dilation)
    return found, None, None


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Return the kernel `[I,O/g,h,w]` that goes back through one of `[O,I/g,h,w]`."""
    made, taken = weight.shape[0] // groups, weight.shape[1]
    parted = weight.reshape(groups, made, taken, *weight.shape[2:]).transpose(1, 2)
    return parted.reshape(groups * taken, made, *weight.shape[2:]).flip(2, 3).contiguous()


def _means(
    recorder: _Recorder,
    gradient: Tensor,
    given: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """Share the gradient out among each window."""
    if ceil_mode or (any(padding) and not count_include_pad):
        raise CannotRecord("windows of a pool are not all alike")
    height, width = kernel
    share = torch.full((given.shape[1], 1, height, width), 1 / (divisor or height * width))
    steps = list(stride) or list(kernel)
    with recorder:
        spread = F.conv_transpose2d(gradient, share, stride=steps, groups=given.shape[1])
        height, width = (
            side + before - there
            for side, before, there in zip(given.shape[2:], padding, spread.shape[2:], strict=True)
        )
        return F.pad(spread, (-padding[1], width, -padding[0], height))


def _means_to_size(recorder: _Recorder, gradient: Tensor, given: Tensor) -> Tensor:
    sides = [
        (whole // n, whole % n)
        for whole, n in zip(given.shape[2:], gradient.shape[2:], strict=True)
    ]
    if any(rest for _, rest in sides):
        raise CannotRecord("windows of a pool are not all alike")
    kernel = [side for side, _ in sides]
    return _means(recorder, gradient, given, kernel, kernel, (0, 0), False, True, None)


def _padding(recorder: _Recorder, given: Tensor, pads: Sequence[int], value: float = 0) -> Any:
    """Cut, where the padding is negative."""
    if min(pads) >= 0:
        return NotImplemented
    with recorder:
        for number, (low, high) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
            dim = given.dim() - 1 - number
            first = max(0, -low)
            given = given.narrow(dim, first, given.shape[dim] - first - max(0, -high))
        return F.pad(given, [max(0, pad) for pad in pads], value=value)


def _slice(
    recorder: _Recorder,
    gradient: Tensor,
    sizes: Sequence[int],
    dim: int,
    start: int,
    end: int,
    step: int,
) -> Tensor:
    if step != 1:
        raise CannotRecord("values are taken that lie apart")
    around = [0] * (2 * len(sizes))
    at = 2 * (len(sizes) - 1 - dim % len(sizes))
    around[at : at + 2] = start, sizes[dim] - start - gradient.shape[dim]
    with recorder:
        return F.pad(gradient, around)


def _select(
    recorder: _Recorder, gradient: Tensor, sizes: Sequence[int], dim: int, index: int
) -> Tensor:
    with recorder:
        gradient = gradient.unsqueeze(dim)
    index %= sizes[dim]
    return _slice(recorder, gradient, sizes, dim, index, index + 1, 1)


def _norm(
    recorder: _Recorder,
    gradient: Tensor,
    given: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    own_mean: Any,
    own_deviation: Any,
    train: bool,
    eps: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    if train or any(wanted[1:]):
        raise CannotRecord("a norm measures what it is given")
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    scale = scale.view(1, -1, *[1] * (gradient.dim() - 2))
    with recorder:
        return gradient * scale, None, None


def _gelu(gradient: Tensor, given: Tensor, *, approximate: str = "none") -> Tensor:
    if approximate != "none":
        raise CannotRecord("a GELU is approximated")
    share = 0.5 * (1 + torch.erf(given * math.sqrt(0.5)))
    density = torch.exp(given * given * -0.5) / math.sqrt(2 * math.pi)
    return gradient * (share + given * density)


def _silu(gradient: Tensor, given: Tensor) -> Tensor:
    share = torch.sigmoid(given)
    return gradient * (share * (1 + given * (1 - share)))


def _hard_swish(gradient: Tensor, given: Tensor) -> Tensor:
    between = torch.where(given <= 3, gradient * (given / 3 + 0.5), gradient)
    return torch.where(given < -3, 0.0, between)


def _softmax(gradient: Tensor, made: Tensor, dim: int, dtype: Any) -> Tensor:
    weighed = gradient * made
    return weighed - made * weighed.sum(dim, keepdim=True)


def _within(gradient: Tensor, given: Tensor, low: float, high: float) -> Tensor:
    return torch.where((given > low) & (given < high), gradient, 0.0)


def _written(step: Step) -> Step:
    """Write down what a step does."""

    def go(recorder: _Recorder, *given: Any, **more: Any) -> Any:
        with recorder:
            return step(*given, **more)

    return go


_INSTEAD: dict[Any, Step] = {
    aten.convolution_backward.default: _convolution,
    aten.avg_pool2d_backward.default: _means,
    aten._adaptive_avg_pool2d_backward.default: _means_to_size,
    aten.constant_pad_nd.default: _padding,
    aten.slice_backward.default: _slice,
    aten.select_backward.default: _select,
    aten.native_batch_norm_backward.default: _norm,
    aten.threshold_backward.default: _written(
        lambda gradient, given, least: torch.where(given > least, gradient, 0.0)
    ),
    aten.leaky_relu_backward.default: _written(
        lambda gradient, given, slope, _: torch.where(given > 0, gradient, gradient * slope)
    ),
    aten.hardtanh_backward.default: _written(_within),
    aten.hardsigmoid_backward.default: _written(
        lambda gradient, given: _within(gradient / 6, given, -3.0, 3.0)
    ),
    aten.hardswish_backward.default: _written(_hard_swish),
    aten.sigmoid_backward.default: _written(lambda gradient, made: gradient * (1 - made) * made),
    aten.tanh_backward.default: _written(lambda gradient, made: gradient * (1 - made * made)),
    aten.silu_backward.default: _written(_silu),
    aten.gelu_backward.default: _written(_gelu),
    aten._softmax_backward_data.default: _written(_softmax),
}
