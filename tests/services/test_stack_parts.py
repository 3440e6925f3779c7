"""The parts a stack is made of: ports, children, what a killed supervisor left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.processes import (
    LONGEST_BACK_OFF_S,
    Child,
    StackError,
    check_port,
    clear_leftovers,
    end,
    free_ports,
    has_members,
    kill_group,
)
from services.settings import Settings
from services.stack import Stack, redis_server

# a process and a child of its own, in one group; says both ids
FAMILY = (
    "import subprocess, sys, os, time;"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(os.getpid(), p.pid, flush=True); time.sleep(60)"
)
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)
# its first thread ends, which makes it a zombie, while another one listens
HALF_DEAD = (
    "import ctypes, socket, threading, time;"
    "s = socket.create_server(('127.0.0.1', 0));"
    "threading.Thread(target=time.sleep, args=(60,)).start();"
    "print(s.getsockname()[1], flush=True); ctypes.CDLL(None).pthread_exit(None)"
)
MakeChild = Callable[[str], Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    made: list[Child] = []

    def make(code: str) -> Child:
        log = tmp_path / f"{len(made)}.log"
        made.append(Child("child", [sys.executable, "-c", code], {"ANSWER": "42"}, log))
        return made[-1]

    yield make
    for child in made:
        child.kill()


class TestPorts:
    def test_a_free_port_passes(self) -> None:
        (port,) = free_ports(1)
        check_port("127.0.0.1", port)

    def test_a_taken_port_is_refused_with_the_remedy(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StackError, match="LANTERN_PORT") as caught:
                check_port("127.0.0.1", port)
        assert str(port) in str(caught.value)
        check_port("127.0.0.1", port)

    def test_free_ports_are_distinct_and_free(self) -> None:
        ports = free_ports(20)
        assert len(set(ports)) == 20
        for port in ports:
            check_port("127.0.0.1", port)


class TestChild:
    def test_it_runs_with_its_environment_and_log(self, make_child: MakeChild) -> None:
        child = make_child(
            "import os, sys; print(os.environ['ANSWER']); print('e', file=sys.stderr)"
        )
        assert not child.is_running
        child.start()
        assert child.wait(time.monotonic() + 10)
        assert sorted(child.log.read_text().split()) == ["42", "e"]

    def test_it_leads_a_group_of_its_own(self, make_child: MakeChild) -> None:
        child = make_child("import time; time.sleep(60)")
        child.start()
        assert child.process is not None
        assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)
        # in another session its niceness would mean nothing to ours
        assert os.getsid(child.process.pid) == os.getsid(0)

    def test_a_living_child_is_left_alone(self, make_child: MakeChild) -> None:
        child = make_child("import time; time.sleep(60)")
        child.start()
        before = pid(child)
        assert not child.tend()
        assert (pid(child), child.restarts) == (before, 0)

    def test_its_whole_group_is_killed(self, make_child: MakeChild) -> None:
        child = make_child(FAMILY)
        child.start()
        parent, grandchild = family_of(child)
        assert parent == pid(child)
        child.kill()
        assert gone(parent)
        assert gone(grandchild)

    def test_what_is_left_of_a_dead_childs_group_is_killed_before_it_starts_again(
        self, make_child: MakeChild
    ) -> None:
        child = make_child(FAMILY)
        child.start()
        parent, grandchild = family_of(child)
        os.kill(parent, signal.SIGKILL)
        assert child.wait(time.monotonic() + 5)
        assert child.tend()
        assert gone(grandchild)

    def test_it_starts_again_later_each_time(self, make_child: MakeChild) -> None:
        child = make_child("pass")
        child.start()
        pauses, planned = [], []
        for restarts in range(1, 4):
            assert child.wait(time.monotonic() + 10)
            died = time.monotonic()
            child.tend()
            planned.append(child.not_before - died)
            while child.restarts < restarts:
                child.tend()
                time.sleep(0.01)
                assert time.monotonic() < died + 5
            pauses.append(time.monotonic() - died)
        assert planned == pytest.approx([0.25, 0.5, 1.0], abs=0.2)
        assert all(took >= wanted for took, wanted in zip(pauses, planned, strict=True))

    def test_the_pause_has_an_end(self, make_child: MakeChild) -> None:
        child = make_child("pass")
        child.failures = 20
        child.start()
        assert child.wait(time.monotonic() + 10)
        child.tend()
        assert child.not_before - time.monotonic() <= LONGEST_BACK_OFF_S

    def test_after_a_steady_life_the_pause_is_short_again(self, make_child: MakeChild) -> None:
        child = make_child("pass")
        child.failures = 20
        child.start()
        assert child.wait(time.monotonic() + 10)
        child.started_at -= 3600
        child.tend()
        assert child.failures == 1
        assert child.not_before - time.monotonic() < 1

    def test_it_ends_with_its_supervisor(self, tmp_path: Path) -> None:
        code = (
            "import os, sys, time; from pathlib import Path; from services.processes import Child;"
            "c = Child('c', [sys.executable, '-c', 'import time; time.sleep(60)'], {},"
            " Path(sys.argv[1])); c.start(); print(c.process.pid, flush=True); time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "log")],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        ) as supervisor:  # fmt: skip
            assert supervisor.stdout is not None
            child = int(supervisor.stdout.readline())
            supervisor.kill()
        assert gone(child)


class TestEnd:
    def test_children_that_listen_end_at_once(self, make_child: MakeChild) -> None:
        children = [make_child("import time; time.sleep(60)") for _ in range(3)]
        for child in children:
            child.start()
        started = time.monotonic()
        end(children, seconds=10)
        assert time.monotonic() - started < 3
        assert not any(child.is_running for child in children)

    def test_a_child_that_does_not_listen_is_killed(self, make_child: MakeChild) -> None:
        child = make_child(STUBBORN)
        child.start()
        await_text(child.log, "up")
        end([child], seconds=0.3)
        assert not child.is_running

    def test_one_that_never_started_is_no_trouble(self, make_child: MakeChild) -> None:
        child = make_child("pass")
        child.signal(signal.SIGTERM)
        end([child], seconds=0.1)


class TestLeftovers:
    def test_only_the_recorded_groups_end(self, tmp_path: Path, make_child: MakeChild) -> None:
        ours, orphaned, others = (make_child(FAMILY) for _ in range(3))
        for child in (ours, orphaned, others):
            child.start()
        families = [family_of(child) for child in (ours, orphaned, others)]
        record = write_record(tmp_path, ours=pid(ours), orphaned=pid(orphaned))
        os.kill(pid(orphaned), signal.SIGKILL)
        assert orphaned.wait(time.monotonic() + 5)
        clear_leftovers(record)
        # at once: the next stack needs their ports
        assert not any(lives(member) for member in (*families[0], *families[1]))
        assert all(psutil.pid_exists(member) for member in families[2])
        assert not record.exists()

    def test_a_process_whose_first_thread_has_ended_is_waited_for(
        self, tmp_path: Path, make_child: MakeChild
    ) -> None:
        child = make_child(HALF_DEAD)
        child.start()
        port = int(await_text(child.log, "\n"))
        record = write_record(tmp_path, ours=pid(child))
        assert gone(pid(child))
        assert has_members(pid(child))
        with pytest.raises(StackError):
            check_port("127.0.0.1", port)
        clear_leftovers(record)
        check_port("127.0.0.1", port)

    def test_a_number_that_was_given_to_another_process_is_left_alone(
        self, tmp_path: Path, make_child: MakeChild
    ) -> None:
        child = make_child("import time; time.sleep(60)")
        child.start()
        record = write_record(tmp_path, ours=pid(child))
        entries = json.loads(record.read_text())
        entries["children"]["ours"]["born"] -= 1000
        record.write_text(json.dumps(entries))
        clear_leftovers(record)
        assert child.is_running
        assert not record.exists()

    @pytest.mark.parametrize("text", ["", "{", "{}", '{"children": {}}'])
    def test_a_damaged_record_is_cleared_away(self, tmp_path: Path, text: str) -> None:
        record = tmp_path / "stack.json"
        record.write_text(text)
        clear_leftovers(record)
        assert not record.exists()

    def test_no_record_is_no_trouble(self, tmp_path: Path) -> None:
        clear_leftovers(tmp_path / "stack.json")

    def test_a_group_that_is_gone_is_no_trouble(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
        process.wait()
        kill_group(process.pid)


class TestStack:
    def test_a_run_directory_has_one_stack(self, tmp_path: Path) -> None:
        import fcntl

        with (tmp_path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stack = Stack(Settings(run_dir=str(tmp_path), port=free_ports(1)[0]))
            with pytest.raises(StackError, match="LANTERN_RUN_DIR"):
                stack.start()
        assert stack.children == []

    def test_a_stack_that_never_started_can_be_stopped(self, tmp_path: Path) -> None:
        Stack(Settings(run_dir=str(tmp_path))).stop()

    def test_there_is_a_redis_server(self) -> None:
        version = subprocess.run(
            [redis_server(), "--version"], capture_output=True, text=True, check=True
        )
        assert "Redis server" in version.stdout


def pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def family_of(child: Child) -> tuple[int, int]:
    """Return the ids of a started `FAMILY`: parent and child."""
    parent, grandchild = await_text(child.log, "\n").split()
    return int(parent), int(grandchild)


def await_text(path: Path, text: str) -> str:
    deadline = time.monotonic() + 10
    while text not in (found := path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def lives(number: int) -> bool:
    """Tell whether a process lives; a zombie that nobody has reaped does not."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(number: int) -> bool:
    """Wait a moment for a process to be gone."""
    deadline = time.monotonic() + 5
    while lives(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not lives(number)


def write_record(folder: Path, **pids: int) -> Path:
    record = folder / "stack.json"
    entries = {
        name: {"pid": number, "born": psutil.Process(number).create_time()}
        for name, number in pids.items()
    }
    record.write_text(json.dumps({"url": "http://x", "children": entries}))
    return record
