"""How a long computation tells where it is, and how it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lantern.image import Image


class Cancelled(Exception):
    """Raised by a progress callback to stop the computation at once."""


class Suspended(Cancelled):
    """Raised to stop a computation that is to go on later, from the state that was kept last."""


@dataclass(frozen=True)
class Step:
    """One finished step: `done` of `total`, the loss there, and a way to see the picture so far."""

    done: int
    total: int
    loss: float
    preview: Callable[[], Image]

    @property
    def fraction(self) -> float:
        """Share of the work done, 0..1."""
        return self.done / self.total


Progress = Callable[[Step], None]


@dataclass
class Told:
    """Tells of steps, and of the last one again while more is done than is counted.

    So a run can be stopped there too, and shows what it has found.
    """

    progress: Progress
    last: Step | None = None

    def step(self, step: Step) -> None:
        """Tell of a step."""
        self.last = step
        self.progress(step)

    def again(self, step: Step) -> None:
        """Tell of the last step once more in the place of one that is not counted."""
        self.progress(self.last or step)


def silent(step: Step) -> None:
    """Ignore progress: the callback for callers that do not watch."""
