"""A run that hangs ends with its process; one that goes on, or is over, never does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.progress import Cancelled
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.clients import Stores
from services.queues import queue_of
from services.record import Job
from services.settings import Settings
from services.worker import tasks
from services.worker.desk import Desk
from services.worker.pulse import Pulse
from tests.services.gateway import queue
from tests.waiting import until

SCRIPT = """
import threading, time
from services.worker import hang
hang.HANGS_AFTER_S = 0.5
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
    [("for _ in range(8): time.sleep(0.2); go_on()", ""), ("pass", "time.sleep(1.2)")],
    ids=["goes on", "between jobs"],
)
def test_a_healthy_process_is_left_alone(within: str, after: str) -> None:
    code, said = run(within, after)
    assert (code, said.strip()) == (0, "it went on")


def test_a_job_goes_on_until_it_is_over(
    stores: Stores, settings: Settings, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, counts = list[float](), list[int]()
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    desk = Desk(settings, stores, studio)
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
