"""How evidence for a result tells where it is, and keeps what it has found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lantern.checkpoint import Checkpoints, restoring
from lantern.image import Image
from lantern.progress import Onward, silent

Batches = Sequence[Callable[[], Tensor]]
Through = Callable[[Batches], list[Tensor]]
"""Makes tensors one after the other."""


def at_once(batches: Batches) -> list[Tensor]:
    """Make tensors where nobody watches, and nothing is kept."""
    return [batch() for batch in batches]


@dataclass(frozen=True)
class Judging:
    """Tells of the steps of evidence, and keeps the tensors it goes by beside those of the run."""

    told: Onward
    checkpoints: Checkpoints

    @classmethod
    def unwatched(cls) -> Judging:
        """Return what tells nobody and keeps nothing."""
        return cls(Onward(silent, lambda own: 0), Checkpoints())

    @property
    def map_steps(self) -> int:
        """The steps of a map like the one that is judged."""
        return max(1, self.told.own)

    def part(self, name: str) -> Judging:
        """Return that of one of several results."""
        return Judging(self.told, self.checkpoints.part(name))

    def through(self, name: str, preview: Callable[[], Image], steps: int = 1) -> Through:
        """Return how to make the tensors of a name, each of which counts as so many steps.

        A run that goes on makes only those it has not kept.
        """

        def go(batches: Batches) -> list[Tensor]:
            checkpoints = self.checkpoints.part(name)
            kept = checkpoints.restore_tensors() or {}
            with restoring():
                found = [kept[str(number)] for number in range(len(kept))]
            if found:
                self.told.beyond(steps * len(found), preview)
            for batch in batches[len(found) :]:
                found.append(batch().cpu().clone())  # a part would keep the whole
                self.told.beyond(steps, preview)
                checkpoints.keep_tensors(
                    lambda: {str(number): made for number, made in enumerate(found)}
                )
            return found

        return go
