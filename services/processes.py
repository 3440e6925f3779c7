"""Processes of a stack: started in groups of their own, watched, ended without orphans."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.settings import ROOT

LONGEST_BACK_OFF_S = 10.0
STEADY_AFTER_S = 30.0
GONE_WITHIN_S = 5.0
PR_SET_PDEATHSIG = 1
LASTING_PORTS = range(15_000, 32_000)


class StackError(Exception):
    """The stack cannot start; the message says why and what to do."""


@dataclass
class Child:
    """One process of the stack, in a process group of its own, started again when it dies."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    cwd: Path = ROOT
    niceness: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    not_before: float = -math.inf
    failures: int = 0
    restarts: int = 0

    def start(self) -> None:
        """Start it, with its output appended to its log."""
        niceness = self.niceness

        def prepare() -> None:
            # a supervisor that is killed takes its children along
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            os.nice(niceness)

        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # a group of its own, but no session: Linux shares the cores among sessions first,
                # and a worker's niceness would count only within its own
                process_group=0,
                preexec_fn=prepare if sys.platform == "linux" else None,
            )
        self.started_at = time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether its main process lives."""
        return self.process is not None and self.process.poll() is None

    def tend(self) -> bool:
        """Start it again if it died, later each time it dies young; tell whether it had died."""
        if self.is_running:
            return False
        now = time.monotonic()
        if self.not_before <= self.started_at:
            self.kill()  # what is left of its group
            young = now - self.started_at < STEADY_AFTER_S
            self.failures = self.failures + 1 if young else 1
            self.not_before = now + min(LONGEST_BACK_OFF_S, 0.25 * 2.0 ** (self.failures - 1))
        if now >= self.not_before:
            self.restarts += 1
            self.start()
        return True

    def signal(self, number: int) -> None:
        """Send a signal to its main process."""
        if self.process is not None and self.is_running:
            self.process.send_signal(number)

    def wait(self, until: float) -> bool:
        """Wait for its end until a monotonic time; tell whether it ended."""
        while self.is_running and time.monotonic() < until:
            time.sleep(0.05)
        return not self.is_running

    def kill(self) -> None:
        """Kill its whole group."""
        if self.process is not None:
            kill_group(self.process.pid)
            self.process.wait()


def end(children: Sequence[Child], *, seconds: float) -> None:
    """Ask processes to end; kill what is left of their groups after `seconds`."""
    for child in children:
        child.signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    for child in children:
        child.wait(until)
        child.kill()


def check_port(host: str, port: int) -> None:
    """Make sure that the gateway will get its port.

    Raises:
        StackError: something listens there.
    """
    if reason := _taken(host, port):
        raise StackError(
            f"port {port} on {host} cannot be used ({reason}); "
            "stop what uses it or set LANTERN_PORT to another"
        )


def _taken(host: str, port: int) -> str:
    """Say why a port cannot be had; nothing if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nothing listens on.

    None is among those that Linux gives to outgoing connections: such a connection would hold the
    port of a part that is being started again.
    """
    probes: list[socket.socket] = []
    try:
        while len(probes) < count:
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", secrets.choice(LASTING_PORTS)))
            except OSError:
                probe.close()
            else:
                probes.append(probe)
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def clear_leftovers(record: Path) -> None:
    """End the processes of a stack whose supervisor was killed; then their ports are free."""
    if not record.is_file():
        return
    try:
        children = json.loads(record.read_text())["children"].values()
    except (ValueError, KeyError):
        children = []
    killed = []
    for entry in children:
        try:
            alive = abs(psutil.Process(entry["pid"]).create_time() - entry["born"]) < 1.0
        except psutil.NoSuchProcess:
            # the leader is gone, but members of its group may be left
            alive = has_members(entry["pid"])
        if alive:
            kill_group(entry["pid"])
            killed.append(entry["pid"])
    # their ports are taken until they are gone
    until = time.monotonic() + GONE_WITHIN_S
    while any(map(has_members, killed)) and time.monotonic() < until:
        time.sleep(0.02)
    record.unlink()


def kill_group(leader: int) -> None:
    """Kill every process of a group that we started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def has_members(group: int) -> bool:
    """Tell whether a process of a group lives; one that only waits to be reaped does not.

    A process whose first thread has ended is a zombie as well, though its other threads still hold
    its files and ports.
    """
    members = (p for p in psutil.process_iter(["status"]) if _group(p.pid) == group)
    return any(p.info["status"] != psutil.STATUS_ZOMBIE or _has_threads(p) for p in members)


def _has_threads(zombie: psutil.Process) -> bool:
    try:
        return zombie.num_threads() > 1
    except psutil.Error:
        return False


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return -1
