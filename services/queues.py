"""The queues between gateway and workers; their messages are hints, the job record is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    from services.record import Lane

HOOKS = "lantern.hooks"
RUN_JOB, DELIVER, TIDY = "lantern.run_job", "lantern.deliver", "lantern.tidy"


def queue_of(lane: Lane) -> str:
    """Name the queue whose messages tell of jobs in a lane."""
    return f"lantern.{lane}"


def send(app: Celery, lane: Lane, job_id: str) -> None:
    """Tell the workers of a lane that a job waits; a lost message is made up for by the caretaker.

    Whoever gets the message takes the job that is first in line.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    app.send_task(
        RUN_JOB,
        args=[job_id],
        queue=queue_of(lane),
        retry=True,
        retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
    )
