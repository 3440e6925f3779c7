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

        The time since the step it went on from was done, at most since the run began.
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
        # the run that went on may have been another, of which nothing was told, before this one
        again = max(e.at for e in self.events if e.at <= after[0].at and e.says("running"))
        return at - max(begun, _when(_went_on_from(again, after), before))

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


def _went_on_from(began: float, told: list[Told]) -> float:
    """Return the step a run went on from: steps are told every half second, not each of them."""
    untold = max(1.0, _pace(told) * (told[0].at - began))
    return float(max(0.0, told[0].data["done"] - untold))


def _when(step: float, told: list[Told]) -> float:
    """Return when a step was done, one before the first that was told at the pace of those."""
    first = told[0]
    if step < first.data["done"]:
        pace = _pace(told)
        return first.at - (first.data["done"] - step) / pace if pace else float("-inf")
    later = next((n for n, e in enumerate(told) if e.data["done"] > step), None)
    if later is None:
        return told[-1].at
    one, other = told[later - 1], told[later]
    share = (step - one.data["done"]) / (other.data["done"] - one.data["done"])
    return float(one.at + share * (other.at - one.at))


def _pace(told: list[Told]) -> float:
    """Return the steps a second at the beginning of a run; 0 where too little was told."""
    if len(told) < 2:
        return 0.0
    one, other = told[:2]
    return float((other.data["done"] - one.data["done"]) / (other.at - one.at))
