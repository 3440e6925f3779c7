"""Timing that survives a noisy machine: contenders take turns, medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the report: what was compared, the figures, and the goal if there is one."""

    what: str
    figures: str
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return f"{self.what:52} {self.figures:58} {self.goal:26} {verdict}"


@dataclass(frozen=True)
class Times:
    """Seconds of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        """A percentile, in seconds."""
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    repeats: Mapping[str, int] | None = None,
) -> dict[str, Times]:
    """Warm each contender up, then run them in turns; `repeats` runs the quick ones more often."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            for _ in range((repeats or {}).get(name, 1)):
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    return {name: Times(tuple(values)) for name, values in seconds.items()}
