"""Sums over batches of chance, kept so that a run that was broken off goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints, restoring


@dataclass
class Sums:
    """Sum and sum of squares, float64, of `count` values that depend on what a generator draws."""

    total: Tensor
    squares: Tensor
    generator: torch.Generator
    checkpoints: Checkpoints
    count: int = 0

    @classmethod
    def begun(cls, zero: Tensor, generator: torch.Generator, checkpoints: Checkpoints) -> Sums:
        """Begin with a tensor of zeros, or go on with the sums and the chance of an earlier run."""
        kept = checkpoints.restore_tensors()
        if kept is None:
            return cls(zero, zero.clone(), generator, checkpoints)
        with restoring():
            generator.set_state(kept["generator"])
            total, squares = kept["total"].to(zero.device), kept["squares"].to(zero.device)
            return cls(total, squares, generator, checkpoints, int(kept["count"]))

    @property
    def mean(self) -> Tensor:
        """The mean of the values so far."""
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """Their variance; rounding may leave it a little below 0."""
        return self.squares / self.count - self.mean.square()

    def add(self, values: Tensor) -> None:
        """Add values `[N,...]`, float64."""
        self.total += values.sum(0)
        self.squares += values.square().sum(0)
        self.count += len(values)

    def keep(self) -> None:
        """Keep what a run needs to go on behind these values.

        Raises:
            Suspended: it is to go on later.
        """
        self.checkpoints.keep_tensors(
            lambda: {
                "total": self.total,
                "squares": self.squares,
                "count": torch.tensor(self.count),
                "generator": self.generator.get_state(),
            }
        )
