"""A real Redis for the session, emptied before each test."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from services import clients
from services.files import Files
from services.jobs import Jobs
from services.processes import free_ports
from services.settings import Settings
from services.stack import redis_server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("redis")
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
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with clients.connect(settings) as connected:
        connected.flushall()
        yield connected
        connected.config_set("maxmemory", 0)


MakeJobs = Callable[..., Jobs]


@pytest.fixture
def make_jobs(client: redis.Redis) -> MakeJobs:
    return functools.partial(Jobs, client, lease_s=5.0, ttl_s=60, max_attempts=3, max_queued=100)


@pytest.fixture
def jobs(make_jobs: MakeJobs) -> Jobs:
    return make_jobs()


@pytest.fixture
def files(client: redis.Redis) -> Files:
    return Files(client, ttl_s=60)
