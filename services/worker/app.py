"""The Celery application: every setting that loses or doubles work is spelled out here."""

from __future__ import annotations

from celery import Celery

from services.queues import queue_of
from services.settings import Settings, read
from services.worker.caretaker import Caretaker

# Redis hands out unacknowledged messages again after this; the job record makes a second delivery
# harmless, a short time would only make it common.
VISIBILITY_S = 4 * 3600


def make_app(settings: Settings) -> Celery:
    """Make the application; gateways use it to send, workers to receive."""
    app = Celery("lantern", broker=settings.state_url)
    app.conf.update(
        include=["services.worker.tasks"],
        task_default_queue=queue_of("jobs"),
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
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_max_tasks_per_child=50,
        worker_max_memory_per_child=2_000_000,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return app


app = make_app(read())
app.steps["worker"].add(Caretaker)
