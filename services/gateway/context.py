"""What the views of one application work with."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import flask
from celery import Celery
from redis import Redis

from lantern.styles.library import StyleLibrary
from services import clients
from services.backend import TorchServeBackend
from services.files import Files
from services.jobs import Jobs
from services.settings import Settings
from services.worker.app import make_app, send

# A decoded picture takes up to 70 MB, and a process has many threads.
DECODING = threading.BoundedSemaphore(3)


@dataclass(frozen=True)
class Context:
    """Settings and connections; nothing connects before it is used."""

    settings: Settings
    redis: Redis
    jobs: Jobs
    files: Files
    backend: TorchServeBackend
    styles: StyleLibrary
    celery: Celery

    def announce(self, job_id: str) -> None:
        """Tell the workers of a job; where that fails the reaper will."""
        from kombu.exceptions import OperationalError

        try:
            send(self.celery, job_id)
        except OperationalError:
            flask.current_app.logger.warning("job %s will be announced later", job_id)


def make(settings: Settings) -> Context:
    """Make the context of an application."""
    client = clients.connect(settings)
    return Context(
        settings=settings,
        redis=client,
        jobs=clients.jobs(settings, client),
        files=clients.files(settings, client),
        backend=TorchServeBackend(
            settings.torchserve_url,
            settings.torchserve_management_url,
            settings.torchserve_key_file,
            timeout_s=settings.interactive_timeout_s,
        ),
        styles=StyleLibrary(Path(settings.styles_path)),
        celery=make_app(settings),
    )


def current() -> Context:
    """Return the context of the application that handles this request."""
    context: Context = flask.current_app.extensions["lantern"]
    return context
