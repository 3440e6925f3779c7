"""A stack started by `lantern up` as a process of its own, and a client for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
import urllib3
from urllib3.filepost import encode_multipart_formdata

from services.settings import ROOT
from tests.waiting import until

PROBLEM_JSON = "application/problem+json"
UP = [sys.executable, "-m", "services.cli", "up"]
READY_WITHIN_S = 130.0
# what is tested is the work, not the memory of it
AFRESH: dict[str, str | None] = {"cache_control": "no-cache"}

Response = urllib3.BaseHTTPResponse


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with only these settings of Lantern."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LANTERN_") and name != "REDIS_URL"
    }
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return kept | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"} | settings


@dataclass
class Running:
    """A stack that runs; `key` is shown with every request where it is not empty."""

    process: subprocess.Popen[bytes]
    port: int
    run_dir: Path
    temporary: Path
    key: str = ""
    _http: urllib3.PoolManager = field(
        default_factory=lambda: urllib3.PoolManager(retries=False, timeout=60.0, maxsize=16)
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What `lantern up` has said."""
        return (self.run_dir / "up.log").read_text()

    # --- Requests

    def request(self, method: str, path: str, body: bytes = b"", **headers: str | None) -> Response:
        """Send a request; `content_type="..."` becomes the header Content-Type."""
        sent = {name.replace("_", "-"): text for name, text in headers.items() if text is not None}
        if self.key:
            sent.setdefault("authorization", f"Bearer {self.key}")
        response: Response = self._http.request(
            method, self.url + path, body=body or None, headers=sent, redirect=False
        )
        return response

    def get(self, path: str, **headers: str | None) -> Response:
        return self.request("GET", path, b"", **headers)

    def json(self, path: str) -> Any:
        """Fetch a document that has to be there."""
        response = self.get(path)
        assert response.status == 200, response.data
        return json.loads(response.data)

    def raw(
        self, technique: str, picture: bytes, query: str = "", **headers: str | None
    ) -> Response:
        """Run a technique on a picture as the body; only the bytes say what it is."""
        headers = {"content_type": "application/octet-stream", **AFRESH, **headers}
        return self.request("POST", f"/v1/techniques/{technique}?{query}", picture, **headers)

    def form(
        self, technique: str, pictures: Mapping[str, bytes], *, headers: Any = None, **fields: Any
    ) -> Response:
        """Run a technique on a multipart form."""
        parts: list[tuple[str, Any]] = [
            *((slot, (f"{slot}.png", data)) for slot, data in pictures.items()),
            *((name, str(value)) for name, value in fields.items()),
        ]
        body, kind = encode_multipart_formdata(parts)
        return self.request(
            "POST",
            f"/v1/techniques/{technique}",
            body,
            content_type=kind,
            **{**AFRESH, **(headers or {})},
        )

    def submit(self, technique: str, pictures: Mapping[str, bytes], **fields: Any) -> Any:
        """Queue a job; return its document."""
        response = self.form(technique, pictures, headers={"prefer": "respond-async"}, **fields)
        assert response.status == 202, response.data
        return json.loads(response.data)

    def ended(self, job: Any, within_s: float = 60.0) -> Any:
        """Wait for a job's end; return its document."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError, AssertionError):
                now = self.json(f"/v1/jobs/{job['id']}?wait=5")
                if now["finished_at"]:
                    return now
            time.sleep(0.1)
        raise AssertionError(f"the job did not end within {within_s} s: {self.output}")

    def events(self, job: Any, after: str = "") -> Iterator[tuple[str, str, Any]]:
        """Follow a job's events: position, name and data of each."""
        headers = {"last_event_id": after} if after else {}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key:
            sent["authorization"] = f"Bearer {self.key}"
        response = self._http.request(
            "GET", self.url + job["links"]["events"], headers=sent, preload_content=False
        )
        assert response.status == 200
        try:
            yield from _events(response)
        finally:
            response.close()

    def stream(self, path: str) -> Response:
        """Open a stream over a connection of its own; close it when done."""
        with urllib3.PoolManager(retries=False, timeout=60.0) as http:
            headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
            return http.request("GET", self.url + path, headers=headers, preload_content=False)

    # --- Processes

    def ready(self) -> bool:
        try:
            return self.get("/healthz/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def checks(self) -> dict[str, bool]:
        """Return what readiness says of each part; nothing while the gateway is down."""
        try:
            checks: dict[str, bool] = json.loads(self.get("/healthz/ready").data)["checks"]
        except (urllib3.exceptions.HTTPError, ValueError):
            return {}
        return checks

    def part(self, name: str) -> psutil.Process:
        """Return the main process of a part of the stack."""
        return psutil.Process(self.pids()[name])

    def pids(self) -> dict[str, int]:
        """Return the id of each part's main process; one that waits to be started is left out."""
        children = json.loads((self.run_dir / "stack.json").read_text())["children"]
        return {name: entry["pid"] for name, entry in children.items()}

    def family(self) -> list[psutil.Process]:
        """Return every process of the stack, the supervisor first."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def redis(self) -> redis.Redis:
        """Connect to the stack's own Redis."""
        text = (self.run_dir / "redis" / "redis.conf").read_text()
        settings = dict(re.findall(r"^(port|requirepass) (\S+)$", text, re.MULTILINE))
        return redis.Redis(port=int(settings["port"]), password=settings["requirepass"])

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Signal the supervisor and wait; return the seconds it took."""
        started = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)
        self._http.clear()
        return time.monotonic() - started


def start(folder: Path, port: int, *, key: str = "", **settings: str) -> Running:
    """Start a stack in a folder and wait until it is ready."""
    run_dir, temporary = folder / "run", folder / "tmp"
    for made in (run_dir, temporary):
        made.mkdir(exist_ok=True)
    names = {
        "LANTERN_PORT": str(port),
        "LANTERN_RUN_DIR": str(run_dir),
        "TMPDIR": str(temporary),
        "TORCH_HOME": str(folder / "torch"),  # no weights but those that come as a package
    }
    with (run_dir / "up.log").open("wb") as log:
        process = subprocess.Popen(
            UP, cwd=ROOT, env=environment(**names, **settings), stdout=log, stderr=log
        )
    running = Running(process, port, run_dir, temporary, key)
    try:
        until(lambda: "is ready" in running.output or process.poll() is not None, READY_WITHIN_S)
        assert process.poll() is None, running.output
    except BaseException:
        running.stop()
        raise
    return running


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that live; a zombie nobody has reaped yet does not."""
    return [p for p in processes if p.is_running() and _status(p) != psutil.STATUS_ZOMBIE]


def problem(response: Response, status: int, code: str = "") -> Any:
    """Check that an answer is a problem document that gives nothing away; return it."""
    text = response.data.decode()
    assert response.status == status, text
    assert response.headers["Content-Type"] == PROBLEM_JSON, text
    document = json.loads(text)
    assert document["status"] == status
    assert all(
        isinstance(document[name], str) and document[name] for name in ("type", "title", "detail")
    )
    assert document["request_id"] == response.headers["X-Request-Id"]
    for secret in ("Traceback", 'File "', str(ROOT), "site-packages", "Error("):
        assert secret not in text
    if code:
        assert document["type"] == f"/problems/{code}", text
    return document


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _events(response: Response) -> Iterator[tuple[str, str, Any]]:
    buffer = b""
    for chunk in response.stream(4096, decode_content=False):
        *blocks, buffer = (buffer + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(re.findall(r"^(\w+): (.*)$", block.decode(), re.MULTILINE))
            if "event" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                if fields["event"] == "done":
                    return
