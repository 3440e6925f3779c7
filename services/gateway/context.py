"""What the views of one application work with."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import flask
from celery import Celery
from kombu.exceptions import OperationalError

from lantern.networks import Networks
from lantern.styles.library import StyleLibrary
from lantern.styles.own import OwnStyles
from services import clients
from services.backend import TorchServeBackend
from services.clients import Stores
from services.gateway.answers import Answers
from services.gateway.seats import Seats
from services.queues import send
from services.record import Job
from services.settings import Settings
from services.worker.app import make_app

# Pictures of an upload are decoded one after the other: so many uploads at a time, and of one key.
MOST_UPLOADS, MOST_UPLOADS_PER_KEY = 8, 4
# A decoded picture takes up to 70 MB, and a process has many threads.
DECODING = threading.BoundedSemaphore(3)


@dataclass(frozen=True)
class Context:
    """Settings and connections; nothing connects before it is used."""

    settings: Settings
    stores: Stores
    answers: Answers
    seats: Seats
    uploads: Seats
    backend: TorchServeBackend
    styles: StyleLibrary
    networks: Networks
    celery: Celery

    def announce(self, job: Job) -> None:
        """Tell the workers of a job; where that fails their caretaker will."""
        try:
            send(self.celery, job.lane, job.id)
        except OperationalError:
            flask.current_app.logger.warning("job %s will be announced later", job.id)

    def waited(self, job: Job, seconds: float) -> Job | None:
        """Wait for a job's end, unless it has ended; None where too many callers wait already."""
        if job.is_final or not seconds:
            return job
        if not self.seats.take(job.owner):
            return None
        try:
            return self.stores.jobs.wait(job.id, seconds) or job
        finally:
            self.seats.give_back(job.owner)


def make(settings: Settings) -> Context:
    """Make the context of an application."""
    stores = clients.stores(settings)
    return Context(
        settings=settings,
        stores=stores,
        answers=Answers(stores.memory, ttl_s=settings.cache_ttl_s),
        seats=Seats(settings.max_streams, settings.max_streams_per_key),
        uploads=Seats(MOST_UPLOADS, MOST_UPLOADS_PER_KEY),
        backend=TorchServeBackend(
            settings.torchserve_url,
            settings.torchserve_management_url,
            settings.torchserve_key_file,
            timeout_s=settings.interactive_timeout_s,
        ),
        styles=StyleLibrary(Path(settings.styles_path), own=OwnStyles(settings.models_path)),
        networks=Networks(settings.models_path),
        celery=make_app(settings),
    )


def current() -> Context:
    """Return the context of the application that handles this request."""
    context: Context = flask.current_app.extensions["lantern"]
    return context
