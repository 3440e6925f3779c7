"""TorchServe as the gateway sees it: techniques that answer at once run there."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import urllib3

from lantern import errors
from lantern.call import Answer, Call
from lantern.errors import LanternError
from lantern.registry import Technique
from lantern.stamp import Stamp, stamp

RETRY_AFTER_S = 0.1
CONNECT_S = 1.0
# urllib3 takes no wait of nothing
LEAST_WAIT_S = 0.001
ENGINE_DIED = (500, 507)
SENT_AT_ONCE = 1024 * 1024


class Refused(LanternError):
    """TorchServe's handler found the call wrong; `problems` lists what is, as plain data."""

    def __init__(self, code: str, detail: str, problems: list[dict[str, str]]) -> None:
        super().__init__(detail, code=code)
        self.problems = problems


class Unavailable(Exception):
    """The engine cannot take the call now: it is full, late or down."""


class AnswerTooLarge(Unavailable):
    """The answer has more bytes than the engine can send; a job can keep it."""


def archive_of(technique: Technique) -> str:
    """Name the TorchServe archive that serves a technique."""
    return "stylize" if technique.family == "stylization" else "explain"


class TorchServeBackend:
    """Sends calls to TorchServe over kept-alive connections, and hides its habits.

    A worker that dies answers 500 or 507 or drops the connection: as every interactive technique
    is a pure function, the call is sent once more. A full queue and a missing worker are both 503.
    """

    def __init__(
        self, url: str, management_url: str, key_file: str, *, timeout_s: float, pool: int = 32
    ) -> None:
        self._management_url = management_url
        self._keys = _Keys(Path(key_file)) if key_file else None
        self._timeout_s = timeout_s
        self._http = urllib3.PoolManager(maxsize=pool, retries=False)
        # asked for by its address each time, it would take a twentieth of a call longer
        self._engine = urllib3.connection_from_url(
            url, maxsize=pool, retries=False, blocksize=SENT_AT_ONCE
        )
        self._states: tuple[float, dict[str, int]] = (0.0, {})

    def perform(self, technique: Technique, call: Call, *, within_s: float = math.inf) -> Answer:
        """Send a call to the archive of its technique; `within_s` may shorten the usual wait."""
        head, body = call.pack()
        return self.send(archive_of(technique), head, body, within_s=within_s)

    def send(self, archive: str, head: str, body: bytes, *, within_s: float = math.inf) -> Answer:
        """Send a packed call, once more if the engine died under it and there is time left.

        Raises:
            Refused: the call is wrong.
            Unavailable: it cannot be served now, or its answer (AnswerTooLarge) not at once.
        """
        ends = time.monotonic() + within_s
        for attempt in (1, 2):
            left_s = max(LEAST_WAIT_S, ends - time.monotonic())
            try:
                response = self._post(archive, head, body, min(self._timeout_s, left_s))
            except urllib3.exceptions.ReadTimeoutError as error:
                raise Unavailable("the engine took too long") from error
            except urllib3.exceptions.HTTPError:
                response = None
            if response is not None and response.status not in ENGINE_DIED:
                return _answer(response)
            if response is not None and _code(response) == "internal":
                raise EngineFailed
            if time.monotonic() + RETRY_AFTER_S >= ends:
                break
            if attempt == 1:
                time.sleep(RETRY_AFTER_S)
        raise Unavailable("the engine is being restarted")

    def ready_workers(self) -> dict[str, int]:
        """Count the READY workers of each archive, asked at most once a second.

        Raises:
            Unavailable: TorchServe does not answer.
        """
        asked, states = self._states
        if time.monotonic() - asked > 1.0:
            states = {name: self._count(name) for name in ("stylize", "explain")}
            self._states = (time.monotonic(), states)
        return states

    def _post(
        self, archive: str, head: str, body: bytes, timeout_s: float
    ) -> urllib3.BaseHTTPResponse:
        headers = {
            "x-lantern-call": head,
            "content-type": "application/octet-stream",
            **self._authorization("inference"),
        }
        timeout = urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s)
        return self._engine.urlopen(
            "POST", f"/predictions/{archive}", body=body, headers=headers, timeout=timeout
        )

    def _count(self, archive: str) -> int:
        try:
            response = self._http.request(
                "GET", f"{self._management_url}/models/{archive}",
                headers=self._authorization("management"), timeout=2.0,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable("TorchServe does not answer") from error
        if response.status != 200:
            return 0
        workers = json.loads(response.data)[0].get("workers", [])
        return sum(worker["status"] == "READY" for worker in workers)

    def _authorization(self, scope: str) -> dict[str, str]:
        if self._keys is None:
            return {}
        try:
            return {"authorization": f"Bearer {self._keys.of(scope)}"}
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable("TorchServe has not started") from error


class _Keys:
    """The keys that TorchServe writes down whenever it starts, read when there are others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[Stamp, Any] = (), None

    def of(self, scope: str) -> str:
        """Return the key of a scope."""
        now = stamp(self._path)
        was, keys = self._known
        if not now or now != was:
            keys = json.loads(self._path.read_text())
            self._known = now, keys
        key: str = keys[scope]["key"]
        return key


class EngineFailed(Exception):
    """The technique failed for a reason that is not the caller's."""


def _code(response: urllib3.BaseHTTPResponse) -> Any:
    """Return the code of a problem, which tells the handler's own answers from TorchServe's."""
    try:
        return json.loads(response.data)["code"]
    except (ValueError, KeyError, TypeError):
        return None


def _answer(response: urllib3.BaseHTTPResponse) -> Answer:
    if response.status == 200:
        timings = json.loads(response.headers.get("x-lantern-timings", "{}"))
        return Answer(response.data, response.headers.get("content-type", ""), timings)
    if response.status == 422:
        problem: dict[str, Any] = json.loads(response.data)
        raise Refused(problem["code"], problem["detail"], problem["errors"])
    if response.status == 413 and _code(response) == errors.AnswerTooLarge.code:
        raise AnswerTooLarge("the answer is too large to be sent at once")
    raise Unavailable(f"the engine answered {response.status}")
