"""Delivering the messages of the outbox to the webhooks of jobs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from services import webhooks
from services.clients import Stores
from services.record import Job


def deliver_one(stores: Stores, *, loopback: bool) -> None:
    """Deliver the first message that is due, and note what came of it."""
    due = stores.outbox.fetch()
    job = stores.jobs.get(due.job_id) if due else None
    if due is None or job is None or job.webhook is None:
        return
    started = time.time()
    delivery = webhooks.deliver(
        job.webhook["url"], job.webhook["secret"], _message_id(job), message(job), loopback=loopback
    )
    again = None if delivery.succeeded else webhooks.wait_after(due.attempt, delivery)
    attempt: dict[str, Any] = {
        "attempt": due.attempt,
        "at": datetime.fromtimestamp(started, UTC).isoformat(),
        "status": delivery.status,
        "error": delivery.error or None,
        "seconds": round(delivery.seconds, 3),
        "next_in_s": None if again is None else round(again, 1),
    }
    stores.outbox.note(due, attempt, again)


def message(job: Job) -> bytes:
    """Write what a webhook is told: that the job has ended, and where to read more."""
    link = f"/v1/jobs/{job.id}"
    data = {
        "id": job.id,
        "technique": job.call["technique"],
        "status": job.status,
        "links": {"self": link, "result": f"{link}/result"},
    }
    return webhooks.message(f"job.{job.status}", job.finished_at or 0.0, data)


def _message_id(job: Job) -> str:
    """Name the message: the same for every attempt, so that the receiver can tell repeats."""
    return "msg_" + job.id.removeprefix("job_")
