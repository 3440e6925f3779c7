"""How a long computation tells where it is, and how it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lantern.image import Image


class Cancelled(Exception):
    """Raised by a progress callback to stop the computation at once."""


class Suspended(Cancelled):
    """Raised to stop a computation that is to go on later, from the state that was kept last."""


@dataclass(frozen=True)
class Step:
    """One finished step: `done` of `total`, the loss there, and a way to see the picture so far.

    `is_even` where those that are left take about as long as this one.
    """

    done: int
    total: int
    loss: float
    preview: Callable[[], Image]
    is_even: bool = True

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


@dataclass
class Onward:
    """Tells of a run's own steps, and of those of the evidence for its result, which come behind.

    `more` says how many there are behind so many of its own.
    """

    progress: Progress
    more: Callable[[int], int]
    own: int = 0
    last: Step | None = None

    def step(self, step: Step) -> None:
        """Tell of a step of the run's own; of the last one again where it comes no further."""
        if self.last is None or step.done > self.last.done:
            self.own = step.total
            self.last = replace(step, total=step.total + self.more(step.total))
        self.progress(self.last)

    def beyond(self, count: int, preview: Callable[[], Image]) -> None:
        """Tell of so many more steps of the evidence."""
        last = self.last or Step(0, self.own + self.more(self.own), 0.0, preview)
        done = max(last.done, self.own) + count  # a run that has settled leaves steps out
        self.last = replace(last, done=done, total=max(done, last.total), is_even=True)
        self.progress(self.last)


def silent(step: Step) -> None:
    """Ignore progress: the callback for callers that do not watch."""
