"""Scores of many trials on one picture, found a few at a time: told of, and kept on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints, restoring
from lantern.image import Image
from lantern.progress import Progress, Step

T = TypeVar("T")


@dataclass
class Trials(Generic[T]):
    """Goes through trials `few` at a time: tells of each step, and keeps the scores it found.

    They come in the same order in a run that goes on: the first steps are those it has. `total`
    is how many steps there are at most; `shown` draws what was tried last.
    """

    progress: Progress
    checkpoints: Checkpoints
    total: int
    few: int
    shown: Callable[[T], Image]
    scores: list[Tensor]
    taken: int = 0

    @classmethod
    def begun(
        cls,
        progress: Progress,
        checkpoints: Checkpoints,
        total: int,
        few: int,
        shown: Callable[[T], Image],
        device: torch.device,
    ) -> Trials[T]:
        """Begin with nothing, or with the scores an earlier run has found."""
        kept = checkpoints.restore_tensors()
        if kept is None:
            return cls(progress, checkpoints, total, few, shown, [])
        with restoring():
            found = torch.split(kept["scores"].to(device), kept["counts"].tolist())
        return cls(progress, checkpoints, total, few, shown, list(found))

    def scored(self, tried: list[T], score: Callable[[list[T]], Tensor]) -> Tensor:
        """Return the score of each trial, `[N]`; `score` finds those of a few."""
        before = self.taken
        for at in range(0, len(tried), self.few):
            self._take(tried[at : at + self.few], score)
        return torch.cat(self.scores[before : self.taken])

    def _take(self, some: list[T], score: Callable[[list[T]], Tensor]) -> None:
        is_new = self.taken == len(self.scores)
        if is_new:
            self.scores.append(score(some).clone())  # a part would keep all classes
        self.taken += 1
        if self.taken == len(self.scores):  # also of a run that goes on, where it was
            shown = functools.partial(self.shown, some[-1])
            self.progress(Step(self.taken, self.total, 0.0, shown))
        if is_new:
            self.checkpoints.keep_tensors(self._state)

    def _state(self) -> dict[str, Tensor]:
        counts = torch.tensor([len(scores) for scores in self.scores])
        return {"scores": torch.cat(self.scores), "counts": counts}
