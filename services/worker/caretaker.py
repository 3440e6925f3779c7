"""What every worker's parent does beside running jobs: greet, bring back what got lost, tidy up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from services import clients
from services.clients import Stores
from services.queues import DELIVER, HOOKS, TIDY, queue_of, send
from services.record import LANES
from services.settings import Settings, read
from services.worker.sign import TOUCH_S, Sign

log = get_task_logger(__name__)
GREETING_S = 2.0
OUTBOX_S = 1.0
TIDYING_S = 60.0
# What is there while a call for tidying up waits or is heard; for so long, in case it got lost.
TIDYING, TIDIED_WITHIN_S = "lantern:tidying", 600
MOST_HINTS = 100


class Caretaker(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs in a worker's parent, by its timer."""

    requires = ("celery.worker.components:Timer",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timers: list[Any] = []
        self._sign: Sign | None = None

    def start(self, parent: Any) -> None:
        """Begin to care for the lanes or the outbox, whichever this worker serves."""
        settings = read()
        if settings.alive_file:
            self._give_sign(parent, settings)
        stores = clients.own_stores()
        queues = set(parent.app.amqp.queues.consume_from)
        chores: list[tuple[float, Callable[[], None]]] = [
            (settings.lease_s / 4, lambda: care(stores, parent.app, parent.hostname))
        ]
        for lane in LANES:
            if queue_of(lane) in queues:
                chores.append((GREETING_S, _greeting(stores, lane, parent.hostname)))
        if HOOKS in queues:
            chores.append((GREETING_S, _greeting(stores, "hooks", parent.hostname)))
            chores.append((OUTBOX_S, lambda: announce_due(stores, parent.app)))
            chores.append((TIDYING_S, lambda: announce_tidying(stores.state, parent.app)))
        for seconds, chore in chores:
            quietly(chore)()
            self._timers.append(parent.timer.call_repeatedly(seconds, quietly(chore)))

    def stop(self, parent: Any) -> None:
        """End all of it."""
        for timer in self._timers:
            timer.cancel()
        if self._sign is not None:
            self._sign.stop()

    def _give_sign(self, parent: Any, settings: Settings) -> None:
        """Show a probe that this worker lives; first of all, as Redis may be away at the start."""
        state = clients.connect(settings.state_url, timeout_s=2.0, patient=False)
        self._sign = Sign(Path(settings.alive_file), state)
        self._sign.start()
        self._timers.append(parent.timer.call_repeatedly(TOUCH_S, self._sign.note))


def care(stores: Stores, app: Any, node: str) -> None:
    """Bring back the jobs of this worker's dead processes at once, those of others in time."""
    for job_id, worker in stores.jobs.held():
        own, _, pid = worker.rpartition(":")
        if own == node and not _lives(int(pid)):
            stores.jobs.abandon(job_id, worker)
    reap(stores, app)


def reap(stores: Stores, app: Any) -> None:
    """Take back the jobs of silent workers; make up for messages that got lost."""
    for lane, waiting in stores.jobs.reap().items():
        missing = waiting - _length(stores.state, queue_of(lane))
        for _ in range(min(missing, MOST_HINTS)):
            send(app, lane, "")


def announce_due(stores: Stores, app: Any) -> None:
    """Call for the delivery of the messages that are due."""
    for _ in range(min(stores.outbox.due() - _length(stores.state, HOOKS), MOST_HINTS)):
        app.send_task(DELIVER, queue=HOOKS)


def announce_tidying(state: Redis, app: Any) -> None:
    """Call for the removal of what nobody needs any more, unless somebody has just called."""
    if state.set(TIDYING, "1", nx=True, ex=TIDIED_WITHIN_S):
        app.send_task(TIDY, queue=HOOKS)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def release(sender: str, **_: object) -> None:
    """Ask for the jobs of this worker, so that another can go on with them at once."""
    try:
        clients.own_stores().jobs.release(sender)
    except RedisError:
        log.warning("the jobs of %s come back when their lease ends", sender)


def _greeting(stores: Stores, lane: str, worker: str) -> Callable[[], None]:
    return lambda: stores.jobs.greet(lane, worker, ttl_s=3 * GREETING_S)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _length(state: Redis, queue: str) -> int:
    return int(state.llen(queue))


def quietly(chore: Callable[[], None]) -> Callable[[], None]:
    """Let a chore be missed while Redis is away: it comes round again."""

    def attempt() -> None:
        try:
            chore()
        except (RedisError, OperationalError) as error:
            log.warning("a chore has to wait: %s", type(error).__name__)

    return attempt
