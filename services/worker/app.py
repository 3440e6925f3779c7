"""The Celery application: every setting that loses or doubles work is spelled out here."""

from __future__ import annotations

from typing import Any

from celery import Celery, bootsteps

from services import clients
from services.settings import Settings, read

QUEUE = "jobs"
TASK = "lantern.run_job"
GREETING_S = 2.0


def make_app(settings: Settings) -> Celery:
    """Make the application; gateways use it to send, workers to receive."""
    app = Celery("lantern", broker=settings.redis_url or "redis://127.0.0.1:6379/0")
    app.conf.update(
        include=["services.worker.tasks"],
        task_default_queue=QUEUE,
        # A killed child's message comes back at once; a failure is ours to record, never the
        # broker's to repeat.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        # a new child imports torch before it reports; on busy cores that takes its time
        worker_proc_alive_timeout=120.0,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # The job record is the result.
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        accept_content=["json"],
        # Redis hands out unacknowledged messages again after this; the job record makes a second
        # delivery harmless, a short time would only make it common.
        visibility_timeout=VISIBILITY_S,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_S,
            "unacked_restore_interval": 5,
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # on SIGTERM a running job goes back to the queue
        worker_soft_shutdown_timeout=2.0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_max_tasks_per_child=50,
        worker_max_memory_per_child=2_000_000,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return app


VISIBILITY_S = 4 * 3600


def send(app: Celery, job_id: str) -> None:
    """Tell a worker of a job; a message that is lost is sent again by the reaper.

    Raises:
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    app.send_task(
        TASK,
        args=[job_id],
        queue=QUEUE,
        retry=True,
        retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
    )


class Caretaker(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs in every worker's parent: says that it lives, and brings back jobs that got lost."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timers: list[Any] = []

    def start(self, parent: Any) -> None:
        """Begin to greet and to reap."""
        settings = read()
        jobs = clients.jobs(settings, clients.connect(settings))

        def greet() -> None:
            jobs.greet(parent.hostname, ttl_s=3 * GREETING_S)

        def reap() -> None:
            for job_id in jobs.reap():
                send(parent.app, job_id)

        greet()
        self._timers = [
            parent.timer.call_repeatedly(GREETING_S, greet),
            parent.timer.call_repeatedly(settings.lease_s / 3, reap),
        ]

    def stop(self, parent: Any) -> None:
        """End both."""
        for timer in self._timers:
            timer.cancel()


app = make_app(read())
app.steps["worker"].add(Caretaker)
