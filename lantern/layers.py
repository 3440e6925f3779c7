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

    A receptive field of None sees the whole picture.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    receptive_field: int | None
    stride: int | None

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"shape": list(self.shape)}


@dataclass(frozen=True)
class _Field:
    """Side of the picture's patch one value depends on, and the step between neighbours, px."""

    size: float
    stride: float


_WHOLE = _Field(float("inf"), float("inf"))
_WINDOWS = {
    torch.conv2d, F.conv2d, F.max_pool2d, F.avg_pool2d, torch.max_pool2d, F.max_pool2d_with_indices,
}  # fmt: skip
_GLOBAL = {F.adaptive_avg_pool2d, F.linear, torch.mean, Tensor.mean}


class _Trace(TorchFunctionMode):
    """Follows receptive fields through every torch function, branches and joins included."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[int, _Field] = {}
        self._alive: list[Tensor] = []  # an id stays taken while its tensor lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        before = [self.fields[id(t)] for t in _tensors(args) if id(t) in self.fields]
        if before and isinstance(out, Tensor):
            widest = _Field(max(f.size for f in before), max(f.stride for f in before))
            self.note(out, _after(func, args, kwargs, widest))
        return out

    def note(self, tensor: Tensor, field: _Field) -> None:
        """Remember the field of a tensor."""
        self._alive.append(tensor)
        self.fields[id(tensor)] = field


def layers(record: Record) -> list[Layer]:
    """List the layers of a network in the order they run, from its architecture alone."""
    with torch.device("meta"):
        network = record.build().eval()
        pixels = torch.empty(1, len(record.mean), record.input_size, record.input_size)
    return followed(network, pixels)


def followed(network: nn.Module, pixels: Tensor) -> list[Layer]:
    """List the layers of a network in the order they run on a picture `[1,C,H,W]`.

    Source: receptive field arithmetic of Araujo et al. 2019, "Computing Receptive Fields of
    Convolutional Neural Networks".
    """
    found: dict[str, Layer] = {}
    trace, is_tokens = _Trace(), has_tokens(network)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and name not in found:
                field = trace.fields.get(id(output), _WHOLE)
                layout = layout_of(output.shape[1:]) if is_tokens else MAPS
                found[name] = _layer(name, module, layout.maps(output), field)

        return hook

    with ExitStack() as hooks, torch.no_grad(), trace:
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(watch(name)).remove)
        trace.note(pixels, _Field(1, 1))
        network(pixels)
    return list(found.values())


def _layer(name: str, module: nn.Module, output: Tensor, field: _Field) -> Layer:
    whole = field.size == float("inf")
    return Layer(
        name,
        type(module).__name__,
        tuple(output.shape[1:]),
        None if whole else int(field.size),
        None if whole else int(field.stride),
    )


def _after(func: Any, args: Any, kwargs: Any, field: _Field) -> _Field:
    if func in _GLOBAL or field.size == float("inf"):
        return _WHOLE
    if func not in _WINDOWS:
        return field
    kernel, stride, dilation = _window(func, args, kwargs)
    return _Field(field.size + (kernel - 1) * dilation * field.stride, field.stride * stride)


def _window(func: Any, args: Any, kwargs: Any) -> tuple[int, int, int]:
    if func in (torch.conv2d, F.conv2d):
        names = ("input", "weight", "bias", "stride", "padding", "dilation")
        given = dict(zip(names, args, strict=False)) | kwargs
        return (
            given["weight"].shape[-1],
            _side(given.get("stride", 1)),
            _side(given.get("dilation", 1)),
        )
    given = dict(zip(("input", "kernel_size", "stride"), args, strict=False)) | kwargs
    kernel = _side(given["kernel_size"])
    return kernel, _side(given.get("stride") or kernel), 1


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
