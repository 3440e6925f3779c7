"""One real stack for the session, and photographs to send to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lantern import samples
from services.processes import free_ports
from services.settings import ROOT
from tests.e2e.pictures import encode, noise, shrunk
from tests.e2e.running import Running, environment, start

LEASE_S = 4


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The stack that the tests share; a job of a lost worker is given on after 4 s.

    Its workers tell and hear often enough for jobs that take a second.
    """
    (port,) = free_ports(1)
    running = start(
        tmp_path_factory.mktemp("first"), port,
        LANTERN_LEASE_S=str(LEASE_S), LANTERN_BEAT_S="0.2", LANTERN_WEBHOOK_LOOPBACK="1",
    )  # fmt: skip
    yield running
    running.stop(signal.SIGINT)
    assert running.process.returncode == 0, running.output


@pytest.fixture(scope="session")
def cat() -> bytes:
    return samples.photographs()["cat"].read_bytes()


@pytest.fixture(scope="session")
def small_cat(cat: bytes) -> bytes:
    return shrunk(cat, 256)


@pytest.fixture(scope="session")
def coffee() -> bytes:
    return samples.photographs()["coffee"].read_bytes()


@pytest.fixture(scope="session")
def tiny() -> bytes:
    """A picture that costs the service next to nothing."""
    return encode(noise())


Lantern = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def lantern() -> Lantern:
    """Run `lantern` with some words and settings."""

    def run(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *map(str, words)],
            cwd=ROOT, env=environment(**settings), capture_output=True, text=True,
            timeout=180, check=False,
        )  # fmt: skip

    return run
