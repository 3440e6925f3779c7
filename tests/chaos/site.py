"""The stack as a saboteur sees it: its processes, its stores, and the jobs its workers hold."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import redis

from services.jobs import JOB, RUNNING
from services.settings import Settings
from services.stack import exported
from tests.chaos.ledger import Ledger, Victim
from tests.e2e.running import Running, alive, start

LONG_WORKERS = ("worker-1", "worker-2")
JOB_WORKERS = (*LONG_WORKERS, "fast-1")
STARTS = 3
BUSY_WITHIN_S = 5.0


@dataclass
class Site:
    """A running stack, the folder it lives in, its settings, and the dice."""

    stack: Running
    folder: Path
    settings: Settings
    ledger: Ledger
    chance: random.Random

    @classmethod
    def open(cls, folder: Path, port: int, ledger: Ledger, *, seed: int, lease_s: float) -> Site:
        """Start a stack: as it comes, but for a second worker, who takes over from the first."""
        settings = Settings(lease_s=lease_s, workers=2, webhook_loopback=True)
        running = start(folder, port, **_named(settings))
        return cls(running, folder, settings, ledger, random.Random(f"site {seed}"))

    # --- Processes

    def children(self, part: str) -> list[psutil.Process]:
        """Return the processes directly below the main process of a part."""
        with suppress(psutil.NoSuchProcess):
            return alive(self.stack.part(part).children())
        return []

    def model_workers(self) -> list[psutil.Process]:
        """Return the processes in which TorchServe runs its handlers."""
        below = [p for child in self.children("torchserve") for p in _below(child)]
        return [process for process in alive(below) if process.name().startswith("python")]

    def is_whole(self) -> bool:
        """Tell whether every part runs with all its processes and the gateway says so."""
        with suppress(psutil.Error, OSError, ValueError, KeyError):
            return (
                all(len(alive([self.stack.part(name)])) == 1 for name in self.parts())
                and all(self.children(worker) for worker in JOB_WORKERS)
                and len(self.children("gateway")) == self.settings.gateway_processes
                and self.stack.ready()
            )
        return False

    def parts(self) -> list[str]:
        """Name the parts of the stack."""
        record = json.loads((self.stack.run_dir / "stack.json").read_text())
        return list(record["children"])

    def start_again(self) -> None:
        """Start the stack in its folder, as an operator would after the supervisor died."""
        for attempt in range(1, STARTS + 1):
            try:
                again = start(self.folder, self.stack.port, **_named(self.settings))
            except AssertionError as error:
                self.ledger.note("starts of the stack that failed")
                self.ledger.crashes.append(f"start {attempt}: {error}")
                if attempt == STARTS:
                    raise
            else:
                self.stack.process = again.process
                return

    # --- Stores

    @contextmanager
    def store(self, name: str) -> Iterator[redis.Redis]:
        """Connect to the Redis of the records or of the blobs."""
        text = (self.stack.run_dir / name / "redis.conf").read_text()
        found = dict(re.findall(r"^(port|requirepass) (\S+)$", text, re.MULTILINE))
        url = f"redis://:{found['requirepass']}@127.0.0.1:{found['port']}/0"
        # by its URL: a client made otherwise repeats what fails, a shutdown too
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            yield client

    def answers(self, name: str) -> bool:
        """Tell whether a Redis is there."""
        try:
            with self.store(name) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    # --- Jobs

    def running(self) -> Mapping[str, Mapping[str, str]]:
        """Return the records of the jobs that run, by id."""
        with self.store("redis") as client:
            ids = [name.decode() for name in cast(list[bytes], client.zrange(RUNNING, 0, -1))]
            records = {job_id: self._record(client, job_id) for job_id in ids}
        return {job_id: record for job_id, record in records.items() if "worker" in record}

    def held_by(self, worker: str) -> list[Victim]:
        """Return the jobs that a worker runs; every worker's for ""."""
        return [
            Victim(job_id, int(record["attempts"]))
            for job_id, record in self.running().items()
            if not worker or record["worker"].startswith(f"{worker}@")
        ]

    def choose_worker(self, among: Sequence[str] = JOB_WORKERS) -> str:
        """Choose a worker to strike, rather one that runs a job; wait a moment for one."""
        wait_until(lambda: any(map(self.held_by, among)), BUSY_WITHIN_S)
        fragile = self.fragile()
        free = [name for name in among if not {v.job_id for v in self.held_by(name)} & fragile]
        busy = [name for name in free if self.held_by(name)]
        return self.chance.choice(busy or free or among)

    def fragile(self) -> set[str]:
        """Return the jobs that would count as poison if they were struck once more.

        Two blows have hit them before they got to a checkpoint; a third in a row is by design taken
        for the job's own fault.
        """
        most = self.settings.max_attempts
        records = self.running().items()
        return {job_id for job_id, record in records if int(record["failures"]) >= most}

    def spare_the_fragile(self, within_s: float = 10.0) -> None:
        """Wait until no job would count as poison."""
        deadline = time.monotonic() + within_s
        while self.fragile() and time.monotonic() < deadline:
            time.sleep(0.2)

    def resumed(self, victim: Victim) -> bool:
        """Tell whether a job got further since it was struck, or needs no worker any more."""
        with self.store("redis") as client:
            record = self._record(client, victim.job_id)
        if record.get("status") == "running":
            return int(record["attempts"]) > victim.attempts
        return record.get("status") != "queued"

    @staticmethod
    def _record(client: redis.Redis, job_id: str) -> dict[str, str]:
        names = ("status", "worker", "attempts", "failures")
        values = cast(list[bytes | None], client.hmget(JOB + job_id, *names))
        return {name: value.decode() for name, value in zip(names, values, strict=True) if value}


def _named(settings: Settings) -> dict[str, str]:
    """Return what differs from the defaults as environment variables."""
    texts, usual = exported(settings), exported(Settings())
    return {name: text for name, text in texts.items() if text != usual[name]}


def kill_group(process: psutil.Process) -> None:
    """Kill a part with everything it started."""
    os.killpg(process.pid, signal.SIGKILL)


def wait_until(holds: Callable[[], bool], within_s: float) -> bool:
    """Wait until something holds; tell whether it did in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
