"""How much is kept for gradients at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Alive:
    """Counts the bytes that are kept for gradients, and the most there ever were at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def keep(self, tensor: Tensor) -> _Held:
        held, size = _Held([tensor]), tensor.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._drop, size)
        return held

    def _drop(self, size: int) -> None:
        self.now -= size


class _Held(list[Tensor]):
    """A list that can be watched."""


@contextmanager
def watched() -> Iterator[Alive]:
    """Watch what is kept for gradients in the block."""
    alive = Alive()
    with torch.autograd.graph.saved_tensors_hooks(alive.keep, lambda held: held[0]):
        yield alive
