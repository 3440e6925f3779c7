"""What layers a network has: type, output shape and receptive field, without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lantern.layout import MAPS, has_tokens, layout_of
from lantern.records import Record


@dataclass(frozen=True)
class Layer:
    """One layer; `shape` of its output without the batch, `receptive_field` and `stride` in pixels.

    The field of its first value begins at the pixel `offset`, where convolutions pad before the
    picture's first. A receptive field of None sees the whole picture.

    Source: receptive field arithmetic of Araujo et al. 2019, "Computing Receptive Fields of
    Convolutional Neural Networks".
    """

    name: str
    type: str
    shape: tuple[int, ...]
    receptive_field: int | None
    stride: int | None
    offset: int | None

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class _Field:
    """First and last pixel the first value depends on, and the step between neighbours, px."""

    first: float
    last: float
    stride: float

    def moved(self, first: int, last: int, stride: int = 1) -> _Field:
        """Return the field of what looks at values from the first to the last, by its first."""
        return _Field(
            self.first + first * self.stride, self.last + last * self.stride, self.stride * stride
        )


_WHOLE = _Field(-float("inf"), float("inf"), float("inf"))
_WINDOWS = {
    torch.conv2d, F.conv2d, F.max_pool2d, F.avg_pool2d, torch.max_pool2d, F.max_pool2d_with_indices,
}  # fmt: skip
_PADS = {F.pad, torch._C._nn.pad}
_GLOBAL = {F.adaptive_avg_pool2d, F.linear, torch.mean, Tensor.mean}


class _Trace(TorchFunctionMode):
    """Follows receptive fields through every torch function, branches and joins included.

    It also counts the functions: when each tensor was made, and when it was last used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[int, _Field] = {}
        self.count = 0
        self.made_at: dict[int, int] = {}
        self.used_at: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id stays taken while its tensor lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.count += 1
        given = [id(t) for t in _tensors((*args, *kwargs.values())) if id(t) in self.fields]
        self.used_at |= dict.fromkeys(given, self.count)
        before = [self.fields[one] for one in given]
        if before and isinstance(out, Tensor):
            joined = _Field(
                min(f.first for f in before),
                max(f.last for f in before),
                max(f.stride for f in before),
            )
            self.note(out, _after(func, args, kwargs, joined))
        return out

    def note(self, tensor: Tensor, field: _Field) -> None:
        """Remember the field of a tensor."""
        self._alive.append(tensor)
        self.fields[id(tensor)] = field
        self.made_at.setdefault(id(tensor), self.count)  # in place it is made but once


def layers(record: Record) -> list[Layer]:
    """List the layers of a network in the order they run, from its architecture alone."""
    with torch.device("meta"):
        network = record.build().eval()
        pixels = torch.empty(1, len(record.mean), record.input_size, record.input_size)
    return followed(network, pixels)


def followed(network: nn.Module, pixels: Tensor) -> list[Layer]:
    """List the layers of a network in the order they run on a picture `[1,C,H,W]`."""
    return list(_traced(network, pixels)[0].values())


def necks(network: nn.Module, pixels: Tensor) -> list[Layer]:
    """List those layers of a network through which all passes that it makes of a picture.

    Nothing that was made before such a layer's output is used behind it: no path leads around it.
    """
    found, ends, trace = _traced(network, pixels)

    def is_neck(name: str) -> bool:
        made, begun, at = ends[name]
        # one that was there before the layer may be used by others too
        return trace.made_at.get(made, 0) > begun and not any(
            trace.made_at[one] <= at < used for one, used in trace.used_at.items() if one != made
        )

    return [layer for name, layer in found.items() if is_neck(name)]


def _traced(
    network: nn.Module, pixels: Tensor
) -> tuple[dict[str, Layer], dict[str, tuple[int, int, int]], _Trace]:
    """Return the layers by name; each one's output by its id, its begin and its end; the trace."""
    found: dict[str, Layer] = {}
    ends: dict[str, tuple[int, int, int]] = {}
    begun: dict[str, int] = {}
    trace, is_tokens = _Trace(), has_tokens(network)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and name not in found:
                field = trace.fields.get(id(output), _WHOLE)
                layout = layout_of(output.shape[1:]) if is_tokens else MAPS
                ends[name] = id(output), begun[name], trace.count
                found[name] = _layer(name, module, layout.maps(output), field)

        return hook

    def enter(name: str) -> Callable[[nn.Module, object], None]:
        def hook(module: nn.Module, inputs: object) -> None:
            begun.setdefault(name, trace.count)

        return hook

    with ExitStack() as hooks, torch.no_grad(), trace:
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
                hooks.callback(module.register_forward_hook(watch(name)).remove)
        trace.note(pixels, _Field(0, 0, 1))
        network(pixels)
    return found, ends, trace


def _layer(name: str, module: nn.Module, output: Tensor, field: _Field) -> Layer:
    shape, kind = tuple(output.shape[1:]), type(module).__name__
    if field.last == float("inf"):
        return Layer(name, kind, shape, None, None, None)
    size = int(field.last - field.first) + 1
    return Layer(name, kind, shape, size, int(field.stride), int(field.first))


def _after(func: Any, args: Any, kwargs: Any, field: _Field) -> _Field:
    if func in _GLOBAL or field.last == float("inf"):
        return _WHOLE
    if func in _PADS:
        pads = _given("input pad", args, kwargs)["pad"]
        return field.moved(-max(pads[0:3:2]), -min(pads[0:3:2]))
    if func not in _WINDOWS:
        return field
    span, stride, padding = _window(func, args, kwargs)
    return field.moved(-padding, span - padding, stride)


def _window(func: Any, args: Any, kwargs: Any) -> tuple[int, int, int]:
    """Return how far it is from a window's first value to its last, its step and its padding."""
    if func in (torch.conv2d, F.conv2d):
        given = _given("input weight bias stride padding dilation", args, kwargs)
        kernel = given["weight"].shape[-1]
    else:
        names = "input kernel_size stride padding"
        given = _given(names if func is F.avg_pool2d else f"{names} dilation", args, kwargs)
        kernel = _side(given["kernel_size"])
        given["stride"] = given.get("stride") or kernel
    span = (kernel - 1) * _side(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        padding = span // 2 if padding == "same" else 0
    return span, _side(given.get("stride", 1)), _side(padding)


def _given(names: str, args: Any, kwargs: Any) -> dict[str, Any]:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[-1]


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(_tensors(value))
    return found
