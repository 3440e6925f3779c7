"""A real Redis for the session, emptied before each test."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services import clients
from services.blobs import Blobs
from services.clients import Stores
from services.files import Files
from services.gateway.app import create_app
from services.gateway.websocket import Channel
from services.jobs import Jobs, Limits
from services.processes import free_ports
from services.settings import Settings
from services.stack import redis_server
from tests.services.engine import Engine
from tests.services.gateway import Closing
from tests.services.streaming import Caller, CallerOf, Ends


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def second_redis_url(tmp_path: Path) -> Iterator[str]:
    """Another one, for what is not to be in the first."""
    folder = tmp_path / "second-redis"
    folder.mkdir()
    with _running_redis(folder) as url:
        yield url


@contextlib.contextmanager
def _running_redis(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [
        redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder),
        "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _await_redis(url, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _await_redis(url: str, log: Path) -> None:
    with redis.Redis.from_url(url) as client:
        for _ in range(100):
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a stack whose TorchServe does not listen."""
    inference, management = free_ports(2)
    return Settings(
        redis_url=redis_url,
        torchserve_url=f"http://127.0.0.1:{inference}",
        torchserve_management_url=f"http://127.0.0.1:{management}",
        run_dir=str(tmp_path),
        interactive_timeout_s=5.0,
        lease_s=5.0,
        webhook_loopback=True,
    )


@pytest.fixture
def stores(settings: Settings) -> Iterator[Stores]:
    """The stores of the settings, empty."""
    made = clients.stores(settings)
    made.state.flushall()
    yield made
    made.state.config_set("maxmemory", 0)
    made.close()


@pytest.fixture
def client(stores: Stores) -> redis.Redis:
    return stores.state


MakeJobs = Callable[..., Jobs]


@pytest.fixture
def make_jobs(client: redis.Redis) -> MakeJobs:
    """Make the jobs of the Redis under other limits."""
    usual = Limits(
        lease_s=5.0, ttl_s=60, max_attempts=3, max_queued=100, max_active=50, max_age_s=600
    )

    def make(**changes: Any) -> Jobs:
        return Jobs(client, dataclasses.replace(usual, **changes))

    return make


@pytest.fixture
def jobs(make_jobs: MakeJobs) -> Jobs:
    return make_jobs()


@pytest.fixture
def blobs(stores: Stores) -> Blobs:
    return stores.blobs


@pytest.fixture
def files(stores: Stores) -> Files:
    return stores.files


@pytest.fixture
def app(settings: Settings, stores: Stores) -> Iterator[flask.Flask]:
    made = create_app(settings)
    made.test_client_class = Closing
    yield made
    made.extensions["lantern"].celery.close()
    made.extensions["lantern"].stores.close()


@pytest.fixture
def http(app: flask.Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def make_http(settings: Settings, stores: Stores) -> Callable[..., FlaskClient]:
    """Make a client of a gateway with other settings."""

    def make(**changes: Any) -> FlaskClient:
        return Closing(create_app(dataclasses.replace(settings, **changes)), TestResponse)

    return make


@pytest.fixture
def caller_of() -> Iterator[CallerOf]:
    """Make a channel and its caller."""
    opened: list[socket.socket] = []

    def make(**options: Any) -> Ends:
        one, other = socket.socketpair()
        opened.extend((one, other))
        return Channel(one, **options), Caller(other)

    yield make
    for sock in opened:
        sock.close()


@pytest.fixture
def ends(caller_of: CallerOf) -> Ends:
    return caller_of(most=1000)
