"""Taking up a network in its middle: from what a layer has made, or is to have made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from lantern.layout import Layout


class NotCut(Exception):
    """The layer was not seen: it only holds others, or makes several things."""


@contextmanager
def cut(
    layer: nn.Module, layout: Layout, forward: Callable[[Tensor], Tensor]
) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Yield a function: an input of `forward` -> (maps of the layer, what `forward` gives).

    Both are joined by a graph that begins at the maps.

    Raises:
        NotCut: (the function) the layer was not seen.
    """
    made: list[Tensor] = []

    def hook(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if made or not isinstance(output, Tensor):
            return None  # a layer used twice is cut where it is used first
        output = output.detach()
        made.append(layout.maps(output).requires_grad_())
        # in-place layers further on must not write over the leaf we return
        return layout.output(made[0].clone(), output)

    def run(given: Tensor) -> tuple[Tensor, Tensor]:
        made.clear()
        with torch.enable_grad():
            out = forward(given.detach())
        if not made:
            raise NotCut
        return made[0], out

    handle = layer.register_forward_hook(hook)
    try:
        yield run
    finally:
        handle.remove()


@contextmanager
def replaced(
    layer: nn.Module, layout: Layout, forward: Callable[[Tensor], Tensor]
) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """Yield a function: an input of `forward`, maps `[B,...]` of the layer -> what comes of them.

    What lies before the layer runs for the input, what lies behind it for the maps.
    """
    given: list[Tensor] = []
    one_serves = True

    def hook(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        # a layer used twice is replaced where it is used first
        if not given or not isinstance(output, Tensor):
            return None
        return layout.output(given.pop(), output).clone()

    def run(pixels: Tensor, activations: Tensor) -> Tensor:
        nonlocal one_serves
        count = len(activations)
        try:
            if one_serves and len(pixels) != count:
                given[:] = [activations]
                with suppress(RuntimeError):
                    made = forward(pixels)
                    if len(made) == count:
                        return made
                # earlier layers of the one picture are joined to many, or their number is asked for
                # at the end: from now on there are as many pictures
                one_serves = False
            given[:] = [activations]
            return forward(pixels.expand(count, -1, -1, -1))
        finally:
            given.clear()

    handle = layer.register_forward_hook(hook)
    try:
        yield run
    finally:
        handle.remove()
