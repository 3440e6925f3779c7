"""What `make chaos` reads in a job's events."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.stories import Story, Told


def status(at: float, value: str) -> Told:
    return Told(at, "done" if value == "succeeded" else "status", {"status": value})


def steps(*told: tuple[float, int]) -> list[Told]:
    return [Told(at, "progress", {"done": done}) for at, done in told]


def story(*parts: Any) -> Story:
    return Story(
        tuple(event for part in parts for event in ([part] if isinstance(part, Told) else part))
    )


# Slow at first, quick before the blow at 13 s, and resumed at 20 s.
FIRST = (status(0, "queued"), status(2, "running"), steps((4, 2), (8, 4), (12, 44), (12.5, 49)))


def test_the_work_lost_is_the_time_since_the_step_it_went_on_from() -> None:
    told = story(*FIRST, status(18, "queued"), status(20, "running"), steps((20.5, 40), (21, 45)))
    # it went on from step 35, which was done at 11.1 s
    assert told.lost_by(13) == pytest.approx(13 - 11.1)
    assert told.resumed_after(13) == 7


def test_a_state_newer_than_what_was_told_costs_what_came_since() -> None:
    told = story(*FIRST, status(20, "running"), steps((20.5, 60), (21, 65)))
    assert told.lost_by(13) == 0.5


def test_a_run_that_told_nothing_is_lost_as_a_whole() -> None:
    told = story(status(0, "queued"), status(2, "running"), status(20, "running"))
    assert told.lost_by(13) == 11


def test_beginning_anew_loses_every_step() -> None:
    told = story(*FIRST, status(20, "running"), steps((20.5, 1), (21, 2)))
    # a step took two seconds, so that the first began as the run did
    assert told.lost_by(13) == 11


def test_what_came_before_the_first_step_is_no_work() -> None:
    slow = (status(0, "queued"), status(2, "running"), steps((8, 10), (8.5, 20)))
    told = story(*slow, status(20, "running"), steps((20.5, 3), (21, 6)))
    assert told.lost_by(9) == pytest.approx(9 - 7.5)


def test_a_run_that_was_hit_before_it_told_anything_does_not_count() -> None:
    told = story(
        *FIRST, status(16, "running"), status(18, "queued"), status(20, "running"),
        steps((20.5, 40), (21, 45)),
    )  # fmt: skip
    assert told.lost_by(13) == pytest.approx(13 - 11.1)
    assert told.resumed_after(13) == 3


def test_what_was_over_lost_nothing() -> None:
    assert story(*FIRST, status(14, "succeeded")).lost_by(13) is None
