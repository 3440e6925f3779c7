"""Looking at many pictures before a run's own steps, and keeping what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints, restoring
from lantern.image import Image
from lantern.progress import Progress, Step

Found = dict[str, Tensor]


@dataclass(frozen=True)
class Looks:
    """Goes through the pictures that are looked at before a run's own `steps`, `batch` by batch.

    A run that goes on does so behind the batch it was at. Where what is found is too much to be
    kept (`is_kept`), it looks at all pictures again.
    """

    progress: Progress
    checkpoints: Checkpoints
    count: int
    batch: int
    steps: int
    is_kept: bool = True

    @property
    def span(self) -> tuple[int, int]:
        """How many steps of progress the looks take, and all there are with the run's own."""
        batches = -(-self.count // self.batch)
        return batches, batches + self.steps

    def through(
        self, look: Callable[[int], Found], preview: Callable[[int], Callable[[], Image]]
    ) -> Found:
        """Look at every batch; return what was found of all pictures, `[N,...]` by name.

        `look` finds that of the batch that begins at a picture, `preview` shows it.

        Raises:
            Suspended: the run is to go on later.
        """
        kept = self.checkpoints.restore_tensors()
        with restoring():
            parts = [kept] if kept else []
            done = len(next(iter(kept.values()))) if kept else 0
        for at in range(done, self.count, self.batch):
            parts.append(look(at))
            self.looked(at, preview(at))
            if self.is_kept:
                self.checkpoints.keep_tensors(lambda: _together(parts))
            else:
                self.checkpoints.heed()
        return _together(parts)

    def looked(self, at: int, preview: Callable[[], Image]) -> None:
        """Tell that the batch that begins at a picture has been looked at."""
        self.progress(Step(at // self.batch + 1, self.span[1], 0.0, preview, is_even=False))


def _together(parts: list[Found]) -> Found:
    with restoring():
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
