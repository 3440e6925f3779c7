"""What the event stream of a job tells afterwards: its ends, its resumptions, the work lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from services.jobs import JOB


@dataclass(frozen=True)
class Told:
    """One event; `at` is when Redis took it in, in seconds since 1970."""

    at: float
    name: str
    data: Mapping[str, Any]

    def says(self, *statuses: str) -> bool:
        """Tell whether it is about a change to one of these statuses."""
        return self.name in ("status", "done") and self.data["status"] in statuses


@dataclass(frozen=True)
class Story:
    """The events of one job, first to last."""

    events: tuple[Told, ...]

    @property
    def ends(self) -> list[str]:
        """The final states it was given: one, if all went well."""
        return [event.data["status"] for event in self.events if event.name == "done"]

    def resumed_after(self, at: float) -> float | None:
        """Return the seconds from a blow until the job ran again; None where it did not have to."""
        back = self._resumption(at)
        return back.at - at if back else None

    def lost_by(self, at: float) -> float | None:
        """Return the seconds of work that a blow cost; None where the job did not have to resume.

        The time since the step it went on from was done for the first time, or since the run began
        where that had not told of that step.
        """
        back = self._resumption(at)
        if back is None:
            return None
        begun = max((e.at for e in self.events if e.at <= at and e.says("running")), default=at)
        before = [e for e in self._progress() if begun <= e.at <= at]
        after = [e for e in self._progress() if e.at >= back.at]
        if not before:
            return at - begun
        if not after:  # it had been told of its last step
            return at - before[-1].at
        return at - _when(_went_on_from(back, after), begun, before)

    def _resumption(self, at: float) -> Told | None:
        later = (e for e in self.events if e.at > at)
        back = next((e for e in later if e.name == "done" or e.says("running", "paused")), None)
        return back if back is not None and back.says("running") else None

    def _progress(self) -> list[Told]:
        return [event for event in self.events if event.name == "progress"]


def read(client: redis.Redis, job_ids: Iterable[str]) -> dict[str, Story]:
    """Read the streams of jobs."""
    return {job_id: _story(client, job_id) for job_id in job_ids}


def _story(client: redis.Redis, job_id: str) -> Story:
    rows = cast(list[Any], client.xrange(f"{JOB}{job_id}:events"))
    return Story(
        tuple(
            Told(
                int(name.partition(b"-")[0]) / 1000,
                fields[b"event"].decode(),
                json.loads(fields[b"data"]),
            )
            for name, fields in rows
        )
    )


def _went_on_from(back: Told, after: list[Told]) -> float:
    """Return the step a run went on from: steps are told every half second, not each of them."""
    first = after[0]
    pace = 0.0
    if len(after) > 1:
        pace = (after[1].data["done"] - first.data["done"]) / (after[1].at - first.at)
    untold = max(1.0, pace * (first.at - back.at))
    return float(max(0.0, first.data["done"] - untold))


def _when(step: float, begun: float, told: list[Told]) -> float:
    """Return when a step was done; the beginning where that was before the first that was told."""
    if step < told[0].data["done"]:
        return begun
    later = next((n for n, e in enumerate(told) if e.data["done"] > step), None)
    if later is None:
        return told[-1].at
    one, other = told[later - 1], told[later]
    share = (step - one.data["done"]) / (other.data["done"] - one.data["done"])
    return float(one.at + share * (other.at - one.at))
