"""How much work a run is, known before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lantern.errors import InvalidParameter
from lantern.layout import MAPS, Layout, has_tokens, layout_of

# The whole forward pass, among the names of layers.
WHOLE = "logits"
# Bytes of a pixel.
PIXEL = 12.0


@dataclass(frozen=True)
class Work:
    """Passes through a network: how many pictures, of how many pixels each, up to which layers.

    A pass is one forward and, where there is a gradient, one backward; each counts. `at_once` are
    the pixels of all pictures that pass together and keep what their gradient needs; `more` are
    operations beside the network's, `beside` the bytes that are kept beside its layers' outputs.
    """

    passes: float
    pixels: float
    layers: tuple[str, ...] = (WHOLE,)
    at_once: float = 0.0
    more: float = 0.0
    beside: float = 0.0

    def operations(self, costs: Mapping[str, float], input_size: int) -> float:
        """Return the floating-point operations of it all.

        `costs` are those of one forward pass at `input_size` squared, by the layer it ends at.
        """
        return self.passes * self.pixels / input_size**2 * self._deepest(costs) + self.more

    def memory(self, tapes: Mapping[str, float], input_size: int) -> float:
        """Return the bytes that are kept at a time, for a gradient and else; `tapes` as `costs`."""
        return self.at_once / input_size**2 * self._deepest(tapes) + self.beside

    def _deepest(self, costs: Mapping[str, float]) -> float:
        return max(costs.get(layer, costs[WHOLE]) for layer in self.layers)


Sizes = Mapping[str, Sequence[tuple[int, int]]]
# from parameters, sizes and the `VisionModel`, None where the technique takes none
Estimator = Callable[[Any, Sizes, Any], Work]


@dataclass(frozen=True)
class LayerFacts:
    """What is known of a layer's output for one picture of the network's own size.

    `shape` is that of its maps, `[C,h,w]`, where it has any, however it lays them out. `operations`
    and `tape` are of the forward pass up to its end: floating-point operations of convolutions and
    linear layers, which are nearly all, a multiplication with an addition being two; and bytes of
    all layers' outputs, which is about what a gradient needs. `parts` are those of the picture
    that it runs on, each for itself, as windows.
    """

    shape: tuple[int, ...]
    operations: float
    tape: float
    layout: Layout = MAPS
    parts: int = 1


def survey(network: nn.Module, channels: int, input_size: int) -> dict[str, LayerFacts]:
    """Pass a grey picture through a network; return what is found at each layer that runs.

    `WHOLE` names the network's own output. A network without values is given zeros.
    """
    # on the meta device, as by torch's own counter, the compiler would be imported: two seconds
    found: dict[str, LayerFacts] = {}
    operations = tape = 0.0
    is_tokens = has_tokens(network)

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            nonlocal operations, tape
            if not isinstance(output, Tensor):
                return
            operations += 2.0 * output.numel() * _products(module)
            if next(module.children(), None) is None:
                tape += output.nbytes
            layout = layout_of(output.shape[1:]) if is_tokens else MAPS
            shape = tuple(layout.maps(output).shape[1:])
            parts = len(output) if output.dim() else 1
            found.setdefault(name, LayerFacts(shape, operations, tape, layout, parts))

        return hook

    hooks = [
        module.register_forward_hook(watch(name or WHOLE))
        for name, module in network.named_modules()
    ]
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    zeros = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in tensors.items() if t.is_meta}
    device = next((t.device for t in tensors.values() if not t.is_meta), torch.device("cpu"))
    try:
        kinds = (t.dtype for t in tensors.values() if t.is_floating_point())
        kind = next(kinds, torch.float32)
        pixels = torch.zeros(1, channels, input_size, input_size, device=device, dtype=kind)
        with torch.inference_mode():
            torch.func.functional_call(network, zeros, (pixels,))
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _products(module: nn.Module) -> int:
    """Return how many products each value of a layer's output sums up."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return module.in_features
    return 0


def check(operations: float, memory: float, *, most: float, most_memory: float) -> None:
    """Refuse more work, or more memory (bytes) at a time, than a caller may ask for.

    Raises:
        InvalidParameter: it is more.
    """
    if operations > most:
        raise InvalidParameter(
            f"this would take {operations / 1e12:.3g} tera-operations; at most {most / 1e12:.3g} "
            "are taken in one run: lower the steps, the size or the number of pictures",
            pointer="/params",
            code="too-much-work",
        )
    if memory > most_memory:
        raise InvalidParameter(
            f"this would keep {memory / 1e6:.0f} MB at a time; at most {most_memory / 1e6:.0f} are "
            "kept in one run: lower the size, or of the tiles where there are, or the number of "
            "pictures",
            pointer="/params",
            code="too-much-work",
        )
