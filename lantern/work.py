"""How much work a run is, known before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lantern.errors import InvalidParameter

if TYPE_CHECKING:
    from lantern.vision_model import VisionModel

# The whole forward pass, among the names of layers.
WHOLE = "logits"


@dataclass(frozen=True)
class Work:
    """Passes through a network: how many pictures, of how many pixels each, up to which layers.

    A pass is one forward and, where there is a gradient, one backward; each counts.
    """

    passes: float
    pixels: float
    layers: tuple[str, ...] = (WHOLE,)

    def operations(self, costs: Mapping[str, float], input_size: int) -> float:
        """Return the floating-point operations of it all.

        `costs` are those of one forward pass at `input_size` squared, by the layer it ends at.
        """
        deepest = max(costs.get(layer, costs[WHOLE]) for layer in self.layers)
        return self.passes * self.pixels / input_size**2 * deepest


Sizes = Mapping[str, Sequence[tuple[int, int]]]
Estimator = Callable[[Any, Sizes, "VisionModel"], Work]


def costs(network: nn.Module, channels: int, input_size: int) -> dict[str, float]:
    """Count the operations of a forward pass up to each layer's end, without running it.

    A multiplication with an addition is two operations. `WHOLE` names all of the pass.
    """
    counter = FlopCounterMode(display=False)
    found: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            found.setdefault(name, float(counter.get_total_flops()))

        return hook

    hooks = [m.register_forward_hook(watch(n)) for n, m in network.named_modules() if n]
    try:
        pixels = torch.empty(1, channels, input_size, input_size, device="meta")
        with torch.no_grad(), counter:
            torch.func.functional_call(network, _shapes(network), (pixels,))
    finally:
        for hook in hooks:
            hook.remove()
    return found | {WHOLE: float(counter.get_total_flops())}


def check(operations: float, most: float) -> None:
    """Refuse more work than a caller may ask for.

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


def _shapes(network: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
