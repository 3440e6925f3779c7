"""A worker's sign of life, by which a probe tells one that hangs from one that waits for Redis."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from services.processes import free_ports
from services.queues import HOOKS
from services.settings import Settings
from services.stack import COURIER, exported, worker_command
from services.worker.sign import LONGEST_STILL_S, TOUCH_S, Sign
from tests.waiting import until


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def away() -> Iterator[redis.Redis]:
    """A Redis that is not there."""
    # by its URL: a client made otherwise repeats what fails
    with redis.Redis.from_url(f"redis://127.0.0.1:{free_ports(1)[0]}/0") as client:
        yield client


def is_touched(sign: Sign) -> bool:
    sign.path.unlink(missing_ok=True)
    sign.look()
    return sign.path.exists()


def test_it_is_given_for_as_long_as_the_loop_comes_round(
    tmp_path: Path, client: redis.Redis, clock: Clock
) -> None:
    sign = Sign(tmp_path / "alive", client, clock)
    for _ in range(40):
        clock.now += TOUCH_S
        sign.note()
        assert is_touched(sign)
    clock.now += LONGEST_STILL_S
    assert is_touched(sign)
    clock.now += 1
    assert not is_touched(sign)
    sign.note()
    assert is_touched(sign)


def test_a_loop_that_waits_for_redis_does_not_hang(
    tmp_path: Path, client: redis.Redis, away: redis.Redis, clock: Clock
) -> None:
    sign = Sign(tmp_path / "alive", away, clock)
    for _ in range(200):
        clock.now += TOUCH_S
        assert is_touched(sign)
    sign.state = client  # it is back, and the loop has not come round yet
    clock.now += TOUCH_S
    assert is_touched(sign)
    clock.now += LONGEST_STILL_S
    assert not is_touched(sign)


def test_a_worker_that_starts_without_redis_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    nowhere = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    settings = Settings(redis_url=nowhere, run_dir=str(tmp_path), alive_file=str(file))
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            worker_command(COURIER, HOOKS), env=os.environ | exported(settings),
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(file.exists, 60)
        before = file.stat().st_mtime_ns
        until(lambda: file.stat().st_mtime_ns > before, 60)
    finally:
        worker.kill()
        worker.wait()
