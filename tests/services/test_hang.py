"""A run that hangs ends with its process; one that goes on, or is over, never does."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.image import Image
from lantern.progress import Cancelled, Step
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.clients import Stores
from services.queues import queue_of
from services.record import Job, JobOptions
from services.settings import Settings
from services.worker import tasks
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from tests.services.gateway import queue, start
from tests.waiting import until

SCRIPT = """
import threading, time
from services.worker import hang
hang.HANGS_AFTER_S = 1.5
with hang.ends_if_it_hangs() as go_on:
    {within}
{after}
print("it went on")
"""


def run(within: str, after: str = "") -> tuple[int, str]:
    """Return how a process ended, and what it said."""
    command = [sys.executable, "-c", SCRIPT.format(within=within, after=after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_hanging_process_ends_and_says_where() -> None:
    code, said = run("threading.Lock().acquire() and time.sleep(30)")
    assert code == 1
    assert "line 6" in said
    assert "it went on" not in said


@pytest.mark.parametrize(
    ("within", "after"),
    [("for _ in range(6): time.sleep(0.4); go_on()", ""), ("pass", "time.sleep(2.2)")],
    ids=["goes on", "between jobs"],
)
def test_a_healthy_process_is_left_alone(within: str, after: str) -> None:
    code, said = run(within, after)
    assert (code, said.strip()) == (0, "it went on")


@pytest.fixture
def desk(stores: Stores, settings: Settings) -> Desk:
    """The desk of a worker that gives up what makes no step for most of a second."""
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    quick = dataclasses.replace(settings, beat_s=0.05, longest_step_s=0.8)
    return Desk(quick, stores, studio)


def found(desk: Desk, document: dict[str, Any]) -> Job:
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


def silent(pulse: Pulse) -> None:
    """Make no sign of life."""


def steps(pulse: Pulse) -> None:
    with contextlib.suppress(Cancelled):
        pulse.step(STEP)


def heeds(pulse: Pulse) -> None:
    pulse.heed()


def looks(pulse: Pulse) -> None:
    pulse.is_suspended()


def run_for(
    desk: Desk, document: dict[str, Any], sign: Callable[[Pulse], None], **more: Any
) -> Job:
    """Let a job run for almost two seconds, with signs; return it as it stands then."""
    with Pulse(desk, start(desk.stores, document), JobOptions(), **more) as pulse:
        for _ in range(18):
            sign(pulse)
            time.sleep(0.1)
    return found(desk, document)


STEP = Step(1, 100, 0.0, lambda: Image(torch.zeros(3, 8, 8)))


def test_a_run_that_makes_no_step_is_given_up(desk: Desk, http: FlaskClient) -> None:
    going = list[float]()
    job = run_for(desk, queue(http), silent, go_on=lambda: going.append(time.monotonic()))
    assert (job.status, job.attempts) == ("failed", 1)
    assert job.error is not None
    assert (job.error["type"], job.error["retryable"]) == ("/problems/stuck", True)
    assert time.monotonic() - going[-1] > 0.4, "from then on it hangs"


def test_one_that_makes_a_step_after_all_is_told(
    desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()

    def hang(at: Desk, job: Job, pulse: Pulse) -> None:
        until(lambda: pulse.word == "lost")
        try:
            pulse.step(STEP)
        except Cancelled:
            told.append(pulse.word)
            raise

    monkeypatch.setattr(tasks, "_run", hang)
    document = queue(http)
    tasks.work(desk, start(desk.stores, document), "jobs")
    assert told == ["lost"]
    assert found(desk, document).status == "failed"
    left = desk.stores.state.keys(f"lantern:blob:{document['id']}/*")
    assert left == []


@pytest.mark.parametrize("sign", [steps, heeds, looks])
def test_one_that_is_heard_of_is_left_alone(
    desk: Desk, http: FlaskClient, sign: Callable[[Pulse], None]
) -> None:
    assert run_for(desk, queue(http), sign).status == "running"


@pytest.mark.parametrize(("steps_of", "gigaflop"), [(1, 6.0), (8, 12.0)])
def test_a_large_step_has_its_time(
    desk: Desk, http: FlaskClient, steps_of: int, gigaflop: float
) -> None:
    told = list[int]()

    def one_step(pulse: Pulse) -> None:
        if not told:
            told.append(1)
            pulse.step(dataclasses.replace(STEP, total=steps_of))

    assert run_for(desk, queue(http), one_step, gigaflop=gigaflop).status == "running"


def test_a_small_step_of_much_work_has_no_more_than_its_share(
    desk: Desk, http: FlaskClient
) -> None:
    told = list[int]()

    def one_step(pulse: Pulse) -> None:
        if not told:
            told.append(1)
            pulse.step(STEP)

    assert run_for(desk, queue(http), one_step, gigaflop=6.0).status == "failed"


def test_nought_gives_up_nothing(desk: Desk, http: FlaskClient) -> None:
    for_ever = dataclasses.replace(desk.settings, longest_step_s=0)
    at = dataclasses.replace(desk, settings=for_ever)
    assert run_for(at, queue(http), silent).status == "running"


def test_a_job_goes_on_until_it_is_over(
    desk: Desk, stores: Stores, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, counts = list[float](), list[int]()
    settings = dataclasses.replace(desk.settings, longest_step_s=0)
    desk = dataclasses.replace(desk, settings=settings)
    document = queue(http)

    @contextmanager
    def watched() -> Iterator[Callable[[], None]]:
        yield lambda: told.append(time.monotonic())

    def hang(at: Desk, job: Job, pulse: Pulse) -> None:
        until(lambda: len(told) >= 2)
        assert stores.jobs.cancel(job.id) == "running"
        until(lambda: pulse.word == "cancel")
        counts.append(len(told))
        time.sleep(3 * settings.beat_s)
        counts.append(len(told))
        raise Cancelled

    monkeypatch.setattr(tasks, "desk", lambda: desk)
    monkeypatch.setattr(tasks, "ends_if_it_hangs", watched)
    monkeypatch.setattr(tasks, "_run", hang)
    tasks.run_job.push_request(delivery_info={"routing_key": queue_of("jobs")}, hostname="worker")
    try:
        tasks.run_job.run(document["id"])
    finally:
        tasks.run_job.pop_request()
    assert counts[0] == counts[1]
    job = stores.jobs.get(document["id"])
    assert job is not None
    assert job.status == "canceled"
