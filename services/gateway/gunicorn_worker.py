"""The gateway's gunicorn worker: a thread is taken by a request that has come whole.

gunicorn's own gives a thread to each connection that sends something and lets it wait for the rest,
so that a few hundred slow callers hold them all. Here the main loop gathers the requests of all
connections, refuses the slow ones, and takes leave of those that close.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http
import io
import json
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from services.gateway.arrival import BLOCK, MOST_HEAD, Arrival, Pace
from services.gateway.guard import SECURITY_HEADERS, timing
from services.gateway.problems import MEDIA_TYPE, RETRY_AFTER_S, Problem, document
from services.settings import read

LATE = Problem(408, "request-timeout", "the request came too slowly; send it again")
FULL = Problem(503, "unavailable", "too many uploads are under way; try again shortly")
INTERNAL = Problem(500, "internal", "the service failed; the fault is not yours")
# The first that fits counts: the mistakes of the application stand before those of the caller.
PROBLEMS: dict[type[Exception], Problem] = {
    errors.InvalidResponseHeader: INTERNAL,
    errors.InvalidResponseHeaderName: INTERNAL,
    errors.ConfigurationProblem: INTERNAL,
    errors.LimitRequestLine: Problem(414, "uri-too-long", "the request line is too long"),
    errors.LimitRequestHeaders: Problem(
        431, "headers-too-large",
        f"send fewer and shorter header fields, of at most {MOST_HEAD} bytes together",
    ),
    errors.ExpectationFailed: Problem(
        417, "expectation-failed", "only `Expect: 100-continue` is understood"
    ),
    errors.UnsupportedTransferCoding: Problem(
        501, "not-implemented", "send the body with a Content-Length or in chunks"
    ),
    errors.ParseException: Problem(400, "malformed", "this is not a valid HTTP/1.1 request"),
    errors.NoMoreData: Problem(400, "malformed", "the body is cut short"),
}  # fmt: skip


class Socket(socket.socket):
    """A caller's socket: one that does not take its answer holds no thread for ever."""

    pace: Pace
    is_stopping: Callable[[], bool]

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it, in as much time as a body of its size may take to come in."""
        self.settimeout(self.pace.stall_s + len(data) / self.pace.least_rate)
        try:
            super().sendall(data, flags)
        except TimeoutError:
            raise ConnectionResetError(errno.ECONNRESET, "the answer was not taken") from None


class Worker(ThreadWorker):  # type: ignore[misc]
    """Threads for requests that are there, one loop for those that come and connections that go."""

    pace = Pace(head_s=10.0, stall_s=10.0, least_rate=16 * 1024)
    linger_s = 2.0
    bodies_held = 16
    """Bodies of pictures that one process holds at a time, or as much in others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = read()
        self.most_body = settings.max_upload_bytes
        self.most_upload = max(settings.max_collection_upload_bytes, settings.max_model_bytes)
        self.most_held = max(self.bodies_held * self.most_body, 2 * self.most_upload)
        self.held = 0
        # connections with a request under way, or (without `arrival`) lingering after a close
        self.watched: set[Any] = set()
        self._next_look = 0.0

    def enqueue_req(self, conn: Any) -> None:
        """Begin to gather a connection's next request."""
        if conn.parser is None:
            taken = conn.sock
            conn.sock = Socket(taken.family, taken.type, taken.proto, taken.detach())
            conn.sock.pace = self.pace
            conn.sock.is_stopping = lambda: not self.alive
            conn.init()
            conn.data_ready = True
        conn.sock.setblocking(False)
        conn.arrival = Arrival(
            conn.parser.unreader.take_buffered(),
            most_body=self.most_body,
            most_upload=self.most_upload,
        )
        conn.held = 0
        self._gather(conn)

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Run the application on a request whose body is in memory."""
        conn.parser.unreader.unread(conn.arrival.hand_over(req))
        try:
            return bool(super().handle_request(req, conn))
        finally:
            req.body = io.BytesIO()  # what was not read is not to be read as a request

    def finish_request(self, conn: Any, future: Future[Any]) -> None:
        """Go on with a connection after a request, or take leave of it."""
        self._forget(conn)
        if future.cancelled() or future.exception() or not future.result():
            self._leave(conn)
        else:
            super().finish_request(conn, future)

    def murder_pending(self) -> None:
        """Give up the connections whose time is over; looked at twice a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + 0.5
        for conn in list(self.watched):
            is_late, arrival = conn.timeout <= now, conn.arrival
            if is_late and arrival is not None and arrival.data:
                self._refuse(conn, LATE)
            elif is_late or (arrival is not None and not arrival.data and not self.alive):
                self._drop(conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer with a problem document where the application was not asked."""
        fitting = (known for kind, known in PROBLEMS.items() if isinstance(exc, kind))
        problem = exc if isinstance(exc, Problem) else next(fitting, INTERNAL)
        if problem is INTERNAL:
            self.log.error("a request failed", exc_info=exc)
        with contextlib.suppress(OSError):
            client.setblocking(False)
            client.send(_written(problem))

    def _gather(self, conn: Any, _: Any = None) -> None:
        """Take in what there is of a request; when it is complete, a thread has it."""
        try:
            is_complete = conn.arrival.receive(conn.sock)
        except (Problem, errors.ParseException, errors.NoMoreData) as error:
            self._refuse(conn, error)
            return
        except OSError:
            self._drop(conn)
            return
        self.held += len(conn.arrival.data) - conn.held
        conn.held = len(conn.arrival.data)
        if self.held > self.most_held:
            largest = max((conn, *self.watched), key=lambda one: one.held)
            self._refuse(largest, FULL)
            if largest is conn:
                return
        if is_complete:
            self._unwatch(conn)
            conn.parser.unreader.unread(conn.arrival.head)
            super().enqueue_req(conn)
            return
        self._watch(conn, self._gather)
        if conn.arrival.data:
            conn.timeout = conn.arrival.deadline(self.pace)
        else:
            conn.set_timeout()

    def _refuse(self, conn: Any, error: Exception) -> None:
        self.handle_error(None, conn.sock, conn.client, error)
        self._leave(conn)

    def _leave(self, conn: Any) -> None:
        """Close for writing, then read on for a while: a reset would take the answer back."""
        self._forget(conn)
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._unwatch(conn)
        self._watch(conn, self._linger)
        conn.timeout = time.monotonic() + self.linger_s

    def _linger(self, conn: Any, _: Any = None) -> None:
        try:
            if not conn.sock.recv(BLOCK):
                self._drop(conn)
        except BlockingIOError:
            return
        except OSError:
            self._drop(conn)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close()

    def _forget(self, conn: Any) -> None:
        self.held -= conn.held
        conn.held = 0
        conn.arrival = None

    def _watch(self, conn: Any, on_ready: Callable[[Any, Any], None]) -> None:
        if conn not in self.watched:
            self.watched.add(conn)
            ready = functools.partial(on_ready, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, ready)

    def _unwatch(self, conn: Any) -> None:
        if conn in self.watched:
            self.watched.remove(conn)
            self.poller.unregister(conn.sock)


def _written(problem: Problem) -> bytes:
    request_id = "req_" + secrets.token_hex(8)
    body = json.dumps(document(problem, request_id)).encode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
        "Server-Timing": timing(0.0),
        **SECURITY_HEADERS,
    }
    if problem.status in RETRY_AFTER_S:
        headers["Retry-After"] = RETRY_AFTER_S[problem.status]
    status = f"HTTP/1.1 {problem.status} {http.HTTPStatus(problem.status).phrase}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{status}{lines}\r\n".encode() + body
