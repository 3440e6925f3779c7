"""The stack as a whole: readiness, parts that die, neighbours, starting and stopping."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3

from services.gateway.guard import digest, new_key
from services.processes import free_ports
from services.settings import ROOT
from tests.e2e.pictures import decode
from tests.e2e.running import UP, Running, alive, environment, problem, start
from tests.waiting import until

pytestmark = pytest.mark.e2e

QUICK = {"steps": 2, "octaves": 1, "size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("second")


@pytest.fixture(scope="module")
def second(folder: Path, stack: Running) -> Iterator[Running]:
    """A stack of its own beside the first, open to holders of a key; its parts are killed."""
    key = new_key()
    (port,) = free_ports(1)
    running = start(folder, port, key=key, LANTERN_API_KEYS=digest(key), LANTERN_LEASE_S="4")
    yield running
    running.stop()


def works(stack: Running, picture: bytes) -> bool:
    """Tell whether an interactive call is answered at once."""
    with suppress(urllib3.exceptions.HTTPError):
        return stack.raw("fast-style", picture).status == 200
    return False


def job_succeeds(stack: Running, picture: bytes) -> Any:
    final = stack.ended(stack.submit("deep-dream", {"image": picture}, **QUICK))
    assert final["status"] == "succeeded", final
    return final


def kill_group(process: psutil.Process) -> None:
    os.killpg(process.pid, signal.SIGKILL)


class TestStarting:
    def test_it_says_itself_that_it_is_ready_within_30_s(self, stack: Running) -> None:
        found = re.search(r"Lantern is ready on (\S+) after ([0-9.]+) s", stack.output)
        assert found, stack.output
        assert found[1] == stack.url
        assert float(found[2]) < 30

    def test_callers_of_both_kinds_are_served(self, stack: Running, tmp_path: Path) -> None:
        locust = [
            sys.executable, "-m", "locust", "--headless", "-u", "2", "-r", "2", "-t", "8s",
            "-f", str(ROOT / "tests" / "load" / "locustfile.py"), "--host", stack.url,
        ]  # fmt: skip
        done = subprocess.run(
            locust, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fast-style" in done.stdout + done.stderr


class TestNeighbours:
    def test_two_stacks_live_beside_each_other(
        self, stack: Running, second: Running, tiny: bytes
    ) -> None:
        assert stack.ready()
        assert second.ready()
        for running in (stack, second):
            assert works(running, tiny)
        job = job_succeeds(second, tiny)
        problem(stack.get(job["links"]["self"]), 404)

    def test_long_jobs_give_way_to_quick_calls(self, second: Running, tiny: bytes) -> None:
        job_succeeds(second, tiny)

        def niceness(name: str) -> list[int]:
            return [p.nice() for p in alive(second.part(name).children())]

        assert niceness("worker-1") == [19]
        assert niceness("fast-1") == [13]
        assert set(niceness("gateway")) == {8}
        assert {p.nice() for p in model_workers(second)} == {8}
        # while it starts, a worker comes first
        assert second.part("worker-1").nice() == 0

    def test_keys_hold_on_the_real_server(self, second: Running, tiny: bytes) -> None:
        key, second.key = second.key, ""
        try:
            problem(second.raw("fast-style", tiny), 401, "unauthorized")
            problem(second.get("/v1/jobs", authorization="Bearer lk_wrong"), 401)
            assert second.get("/healthz/ready").status == 200
        finally:
            second.key = key

    def test_no_log_and_no_file_holds_the_key(self, second: Running) -> None:
        files = [path for path in second.run_dir.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert second.key.encode() not in path.read_bytes(), path

    def test_only_the_gateway_listens_where_others_might_reach(self, second: Running) -> None:
        addresses = {
            (connection.laddr.ip, connection.laddr.port)
            for process in second.family()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert ("127.0.0.1", second.port) in addresses
        assert len(addresses) >= 5
        assert {ip for ip, _ in addresses} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

    def test_secrets_are_for_their_owner_alone(self, second: Running) -> None:
        path = second.run_dir / "redis" / "redis.conf"
        assert path.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("what", ["port", "run directory"])
    def test_what_is_taken_is_refused_with_the_remedy(
        self, stack: Running, tmp_path: Path, what: str
    ) -> None:
        own_port, own_folder = str(free_ports(1)[0]), str(tmp_path)
        settings = {
            "port": {"LANTERN_PORT": str(stack.port), "LANTERN_RUN_DIR": own_folder},
            "run directory": {"LANTERN_PORT": own_port, "LANTERN_RUN_DIR": str(stack.run_dir)},
        }[what]
        ran = subprocess.run(
            UP, env=environment(**settings), cwd=ROOT, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        assert ran.returncode == 2
        assert ran.stdout == ""
        (line,) = ran.stderr.splitlines()
        assert line.startswith("lantern: ")
        assert ("LANTERN_PORT" if what == "port" else "LANTERN_RUN_DIR") in line
        assert stack.ready()


class TestPartsThatDie:
    @pytest.fixture(autouse=True)
    def whole(self, second: Running) -> None:
        """Begin each test with all parts there, whatever the one before has left."""
        until(second.ready, 60)

    def test_a_silent_worker_is_told_and_a_dead_one_replaced(
        self, second: Running, tiny: bytes
    ) -> None:
        worker = second.part("worker-1")
        worker.suspend()
        seconds = until(lambda: second.checks().get("worker") is False, 12)
        print(f"a stopped worker is missed after {seconds:.1f} s")
        assert second.checks() == {"redis": True, "torchserve": True, "worker": False}
        assert works(second, tiny)
        kill_group(worker)
        seconds = until(second.ready, 30)
        print(f"a killed worker is back after {seconds:.1f} s")
        assert second.part("worker-1").pid != worker.pid
        job_succeeds(second, tiny)

    def test_a_worker_that_was_away_gives_way(
        self, second: Running, tiny: bytes, coffee: bytes
    ) -> None:
        job = second.submit("deep-dream", {"image": coffee}, steps=200, octaves=10, size=512)
        until(lambda: second.json(job["links"]["self"])["progress"] is not None, 20)
        pool = second.part("worker-1").children()
        for process in pool:
            process.suspend()
        until(lambda: second.json(job["links"]["self"])["status"] == "queued", 12)
        second.request("POST", job["links"]["cancel"])
        for process in pool:
            process.resume()
        assert second.ended(job)["status"] == "canceled"
        job_succeeds(second, tiny)
        assert second.json(job["links"]["self"])["status"] == "canceled"

    def test_a_killed_gateway_comes_back(self, second: Running, tiny: bytes) -> None:
        gateway = second.part("gateway")
        gateway.kill()
        until(lambda: second.pids().get("gateway", gateway.pid) != gateway.pid, 10)
        seconds = until(second.ready, 20)
        print(f"a killed gateway is back after {seconds:.1f} s")
        assert works(second, tiny)

    def test_a_killed_gateway_process_is_not_missed(self, second: Running, tiny: bytes) -> None:
        second.part("gateway").children()[0].kill()
        until(lambda: works(second, tiny), 5)
        assert second.ready()

    def test_a_killed_model_worker_costs_no_caller_an_error(
        self, second: Running, tiny: bytes
    ) -> None:
        for process in model_workers(second):
            process.kill()
        statuses: list[int] = []
        began = time.monotonic()
        while not statuses or statuses[-1] != 200:
            assert time.monotonic() - began < 30
            statuses.append(second.raw("fast-style", tiny).status)
        assert set(statuses) <= {200, 202}
        until(second.ready, 30)
        assert len(model_workers(second)) == 2

    def test_a_killed_torchserve_comes_back_and_calls_become_jobs_meanwhile(
        self, second: Running, tiny: bytes
    ) -> None:
        torchserve = second.part("torchserve")
        kill_group(torchserve)
        response = second.raw("fast-style", tiny)
        assert response.status == 202
        until(lambda: second.checks().get("torchserve") is False, 5)
        final = second.ended(json.loads(response.data))
        assert final["status"] == "succeeded"
        assert decode(second.get(final["links"]["result"]).data).shape == (48, 64, 3)
        seconds = until(second.ready, 60)
        print(f"a killed TorchServe is back after {seconds:.1f} s")
        assert works(second, tiny)

    def test_a_killed_redis_comes_back_with_all_it_knew(self, second: Running, tiny: bytes) -> None:
        before = job_succeeds(second, tiny)
        running = second.submit("deep-dream", {"image": tiny}, steps=150, octaves=3, size=128)
        until(lambda: second.json(running["links"]["self"])["progress"] is not None, 20)
        second.part("redis").kill()
        problem_or_answer = second.get(before["links"]["self"]).status
        assert problem_or_answer in (200, 503)
        seconds = until(second.ready, 20)
        print(f"a killed Redis is back after {seconds:.1f} s")
        assert second.json(before["links"]["self"]) == before
        assert decode(second.get(before["links"]["result"]).data).shape == (48, 64, 3)
        assert second.ended(running)["status"] == "succeeded"
        job_succeeds(second, tiny)

    def test_killed_blobs_come_back_and_the_quick_calls_never_noticed(
        self, second: Running, tiny: bytes
    ) -> None:
        before = job_succeeds(second, tiny)
        running = second.submit("deep-dream", {"image": tiny}, steps=150, octaves=3, size=128)
        until(lambda: second.json(running["links"]["self"])["progress"] is not None, 20)
        second.part("blobs").kill()
        assert works(second, tiny)
        seconds = until(lambda: second.get(before["links"]["result"]).status == 200, 20)
        print(f"a killed Redis of the bytes is back after {seconds:.1f} s")
        assert second.ended(running)["status"] == "succeeded"
        job_succeeds(second, tiny)

    def test_the_worker_still_greets_and_reaps_after_that(self, second: Running) -> None:
        with second.redis() as client:
            for lane in ("jobs", "fast", "hooks"):
                client.delete(f"lantern:workers:{lane}")
                until(lambda lane=lane: client.zcard(f"lantern:workers:{lane}") == 1, 10)  # type: ignore[misc]
            client.zadd("lantern:jobs:running", {"job_lost": 1})
            until(lambda: client.zcard("lantern:jobs:running") == 0, 10)

    def test_what_happened_was_told(self, second: Running) -> None:
        for part in ("worker-1", "gateway", "torchserve", "redis", "blobs"):
            assert f"{part} ended and is started again" in second.output
        assert "Traceback" not in second.output


class TestStopping:
    def test_after_a_killed_supervisor_the_next_start_clears_up(
        self, second: Running, folder: Path, stack: Running, tiny: bytes
    ) -> None:
        job = job_succeeds(second, tiny)
        family = second.family()
        second.process.kill()
        second.process.wait(10)
        second.stop()
        again = start(
            folder, second.port, key=second.key, LANTERN_API_KEYS=digest(second.key),
            LANTERN_LEASE_S="4",
        )  # fmt: skip
        try:
            assert alive(family) == []
            assert again.json(job["links"]["self"]) == job
            assert works(again, tiny)
            assert stack.ready()
        finally:
            self.stops_without_a_trace(again)

    def stops_without_a_trace(self, running: Running) -> None:
        family = running.family()
        groups = {os.getpgid(process.pid) for process in alive(family)} - {os.getpgid(0)}
        assert len(family) > 8
        assert len(groups) >= 4
        own = temporary_of(running)
        assert own.is_dir()
        seconds = running.stop()
        print(f"stopped after {seconds:.1f} s")
        assert seconds < 10
        assert running.process.returncode == 0, running.output
        assert alive(family) == []
        assert not [p for p in psutil.process_iter() if group_of(p) in groups and alive([p])]
        assert not own.exists()
        assert not (running.run_dir / "stack.json").exists()
        assert "Traceback" not in running.output
        with pytest.raises(urllib3.exceptions.HTTPError):
            running.get("/healthz/live")


def model_workers(stack: Running) -> list[psutil.Process]:
    """Return the processes in which TorchServe runs the handlers."""
    every = stack.part("torchserve").children(recursive=True)
    return [p for p in alive(every) if any("model_service_worker" in w for w in p.cmdline())]


def temporary_of(stack: Running) -> Path:
    """Return the stack's folder for what is gone when it stops."""
    return Path(stack.part("torchserve").environ()["TEMP"])


def group_of(process: psutil.Process) -> int:
    with suppress(ProcessLookupError, PermissionError):
        return os.getpgid(process.pid)
    return -1
