"""The gateway's gunicorn worker on real connections; a request's framing against gunicorn's."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData, ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from services.gateway.arrival import MOST_HEAD, Arrival, Pace
from services.gateway.gunicorn_worker import Socket
from services.gateway.problems import Problem
from services.processes import free_ports
from services.settings import ROOT

MIB = 1024 * 1024
MOST_BODY = 6 * MIB
MOST_UPLOAD = 8 * MIB
IMAGES = "/v1/collections/mine/images"
THREADS = 4
KEEPALIVE_S = 3
# how long after its time a connection may still be there: the main loop looks once a second
LATE_S = 3.0

CONF = f"""
from services.gateway.arrival import Pace
from services.gateway.gunicorn_conf import *
from services.gateway.gunicorn_worker import Worker

class Quick(Worker):
    pace = Pace(head_s=0.6, stall_s=0.6, least_rate={MIB})
    linger_s = 1.0
    bodies_held = 3

worker_class = Quick
keepalive = {KEEPALIVE_S}
"""
APP = '''
import hashlib, time

def app(environ, start_response):
    """Say what came, in the way that the path names."""
    path, source = environ["PATH_INFO"], environ["wsgi.input"]
    status, headers = "200 OK", []
    if path in ("/echo", "/v1/collections/mine/images"):
        body = source.read()
    elif path == "/lines":
        body = b"".join(source)
    elif path == "/refuse":
        status, body = "401 Unauthorized", b"no"
    elif path == "/first":
        body = source.read(5)
    elif path == "/wait":
        time.sleep(1.0)
        body = b"waited"
    elif path == "/stay":
        while not environ["gunicorn.socket"].is_stopping():
            time.sleep(0.05)
        body = b"stopping"
    elif path == "/planted":
        headers, body = [("X-Planted", "a\\r\\nb")], b""
    elif path == "/large":
        body = bytes(4 * 1024 * 1024)
    else:
        body = path.encode()
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]
'''


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """A connection of its own, to say exactly what is wanted."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def interim(self) -> bytes:
        """Read an answer without a body, such as 100 Continue."""
        return self._file.readline() + self._file.readline()

    def answer(self) -> Answer:
        status = int(self._file.readline().split()[1])
        headers = dict(http.client.parse_headers(self._file).items())
        return Answer(status, headers, self._file.read(int(headers["Content-Length"])))

    def problem(self, status: int, code: str) -> Answer:
        """Read an answer; check that it is a problem document and the connection's last word."""
        answer = self.answer()
        document = json.loads(answer.body)
        assert (answer.status, document["type"]) == (status, f"/problems/{code}")
        assert document["status"] == status
        assert document["title"]
        assert document["detail"]
        assert document["request_id"] == answer.headers["X-Request-Id"]
        assert answer.headers["Server-Timing"].startswith("queue;dur=")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Connection"] == "close"
        assert self.is_closed()
        return answer

    def is_closed(self) -> bool:
        """Tell whether the server said its last word; waits for it."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    callers: list[Caller]

    def call(self, *parts: bytes) -> Caller:
        caller = Caller(self.port)
        self.callers.append(caller)
        caller.send(*parts)
        return caller

    def answers_at_once(self) -> None:
        started = time.monotonic()
        caller = self.call(head("/fast"))
        assert caller.answer().body == b"/fast"
        assert time.monotonic() - started < 1
        caller.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("gunicorn")
    with start(folder) as server:
        yield server
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The running server, with the test's connections closed afterwards."""
    yield running
    while running.callers:
        running.callers.pop().close()


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Server]:
    (folder / "conf.py").write_text(CONF)
    (folder / "served.py").write_text(APP)
    (port,) = free_ports(1)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "LANTERN_PORT": str(port),
        "LANTERN_GATEWAY_PROCESSES": "1",
        "LANTERN_GATEWAY_THREADS": str(THREADS),
        "LANTERN_MAX_UPLOAD_BYTES": str(MOST_BODY),
        "LANTERN_MAX_COLLECTION_UPLOAD_BYTES": str(MOST_UPLOAD),
        "LANTERN_MAX_MODEL_BYTES": str(MOST_UPLOAD),
        "LANTERN_DRAIN_S": "5",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", str(folder / "conf.py"), "served:app"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    server = Server(port, process, log, [])
    try:
        await_port(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def await_port(server: Server) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
            return
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.05)
    raise AssertionError(server.log.read_text())


def head(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    first = f"{method} {path} HTTP/{version}"
    return "\r\n".join([first, "Host: x", *lines, "", ""]).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    return head(path, f"Content-Length: {len(body)}", *lines, method="POST") + body


def chunks(body: bytes, size: int, *trailers: str) -> bytes:
    blocks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(f"{len(block):x}\r\n".encode() + block + b"\r\n" for block in blocks)
    return framed + "\r\n".join(["0", *trailers, "", ""]).encode()


def post_chunks(path: str, body: bytes, size: int, *trailers: str) -> bytes:
    lines = head(path, "Transfer-Encoding: chunked", method="POST")
    return lines + chunks(body, size, *trailers)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class TestBodies:
    @pytest.mark.parametrize("path", ["/echo", "/lines"])
    @pytest.mark.parametrize("size", [0, 1, 8191, 8192, 65536, 306_000, 5 * MIB, MOST_BODY])
    def test_they_arrive_as_they_were_sent(self, server: Server, size: int, path: str) -> None:
        body = noise(size)
        caller = server.call(post(path, body))
        assert same(caller.answer().body, body)
        caller.send(post_chunks(path, body, 10_000))
        assert same(caller.answer().body, body)

    def test_a_head_and_a_body_byte_by_byte(self, server: Server) -> None:
        for request in (post("/echo", b"body"), post_chunks("/echo", b"body", 3, "X-Trailer: 1")):
            caller = server.call(*(bytes([byte]) for byte in request))
            assert caller.answer().body == b"body"

    def test_a_steady_body_may_take_longer_than_a_stall(self, server: Server) -> None:
        caller, body = server.call(head("/echo", f"Content-Length: {2 * MIB}")), noise(2 * MIB)
        for at in range(0, 2 * MIB, 128 * 1024):
            caller.send(body[at : at + 128 * 1024])
            time.sleep(0.05)
        assert same(caller.answer().body, body)

    def test_a_length_over_the_limit_reaches_the_application_without_its_body(
        self, server: Server
    ) -> None:
        caller = server.call(head("/echo", f"Content-Length: {MOST_BODY + 1}", method="POST"))
        answer = caller.answer()
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Connection"] == "close"
        assert caller.is_closed()

    def test_an_answer_to_a_large_upload_is_not_lost(self, server: Server) -> None:
        body = bytes(2 * MOST_BODY)
        caller = server.call(post("/refuse", body))
        assert caller.answer().status == 401

    def test_chunks_over_the_limit(self, server: Server) -> None:
        caller = server.call(post_chunks("/echo", bytes(MOST_BODY + 1), MIB))
        caller.problem(413, "too-large")

    @pytest.mark.parametrize("chunk", [0, MIB])
    def test_pictures_for_a_collection_may_be_larger(self, server: Server, chunk: int) -> None:
        body = noise(MOST_UPLOAD)
        for path in (IMAGES, IMAGES + "?x=1"):
            sent = post_chunks(path, body, chunk) if chunk else post(path, body)
            assert same(server.call(sent).answer().body, body)

    def test_they_have_a_limit_too(self, server: Server) -> None:
        too_long = f"Content-Length: {MOST_UPLOAD + 1}"
        assert server.call(head(IMAGES, too_long, method="POST")).answer().body == b""
        chunks = post_chunks(IMAGES, bytes(MOST_UPLOAD + 1), MIB)
        server.call(chunks).problem(413, "too-large")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", IMAGES), ("POST", IMAGES + "/a"), ("POST", "/v1/collections"),
            ("POST", "/v1/collections/a/b/images"), ("POST", "/x" + IMAGES), ("POST", IMAGES + "x"),
        ],
    )  # fmt: skip
    def test_no_other_body_may(self, server: Server, method: str, path: str) -> None:
        caller = server.call(head(path, f"Content-Length: {MOST_UPLOAD}", method=method))
        assert caller.answer().headers["Connection"] == "close"

    def test_a_body_that_is_cut_short(self, server: Server) -> None:
        for cut in (post("/echo", b"body")[:-1], post_chunks("/echo", b"body", 2)[:-1]):
            caller = server.call(cut)
            caller.socket.shutdown(socket.SHUT_WR)
            caller.problem(400, "malformed")


def same(given: bytes, wanted: bytes) -> bool:
    """Compare large bodies, without pytest's report of how they differ."""
    return hashlib.sha256(given).digest() == hashlib.sha256(wanted).digest()


class TestConnections:
    def test_requests_follow_one_another(self, server: Server) -> None:
        caller = server.call()
        for number in range(3):
            caller.send(head(f"/{number}"))
            assert caller.answer().body == f"/{number}".encode()
            caller.send(post("/echo", b"x" * number))
            assert caller.answer().body == b"x" * number

    def test_requests_sent_together_are_answered_in_turn(self, server: Server) -> None:
        large = noise(200_000)
        caller = server.call(
            head("/1") + post("/echo", b"2") + post_chunks("/echo", b"three", 2) + head("/4")
            + post("/first", large) + post("/refuse", b"GET /hidden HTTP/1.1\r\n\r\n")
            + post_chunks("/echo", large, 777, "X-Trailer: 1") + head("/last", "Connection: close")
        )  # fmt: skip
        bodies = [caller.answer().body for _ in range(8)]
        assert bodies[:6] == [b"/1", b"2", b"three", b"/4", large[:5], b"no"]
        assert same(bodies[6], large)
        assert bodies[7] == b"/last"
        assert caller.is_closed()

    def test_a_request_in_two_halves_behind_another(self, server: Server) -> None:
        second = post("/echo", b"second")
        caller = server.call(head("/first") + second[:30])
        caller.answer()
        caller.send(second[30:])
        assert caller.answer().body == b"second"

    def test_a_refusal_that_read_nothing_leaves_the_connection_usable(self, server: Server) -> None:
        caller = server.call(post("/refuse", noise(3 * MIB)))
        assert caller.answer().status == 401
        caller.send(head("/next"))
        assert caller.answer().body == b"/next"

    def test_an_old_caller_is_answered_and_left(self, server: Server) -> None:
        caller = server.call(head("/old", version="1.0"))
        assert caller.answer().body == b"/old"
        assert caller.is_closed()

    def test_one_that_says_nothing_is_left_without_a_word(self, server: Server) -> None:
        fresh, used = server.call(), server.call(head("/used"))
        used.answer()
        started = time.monotonic()
        assert fresh.is_closed()
        assert used.is_closed()
        assert time.monotonic() - started < KEEPALIVE_S + LATE_S

    def test_a_caller_that_leaves_does_no_harm(self, server: Server) -> None:
        for sent in (b"", b"GET", post("/echo", b"body")[:-2], head("/wait"), head("/large")):
            server.call(sent).close()
        server.answers_at_once()

    def test_callers_that_stay_after_a_refusal_hold_nobody_up(self, server: Server) -> None:
        for _ in range(30):
            server.call(b"NONSENSE\r\n\r\n")
        server.answers_at_once()


class TestExpectations:
    def test_a_caller_that_waits_is_asked_for_the_body_once(self, server: Server) -> None:
        request = post("/echo", b"body", "Expect: 100-continue")
        caller = server.call(request[:-4])
        assert caller.interim() == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.send(b"body")
        assert caller.answer().body == b"body"

    def test_one_that_did_not_wait_is_not_asked(self, server: Server) -> None:
        caller = server.call(post("/echo", b"body", "Expect: 100-Continue"))
        assert caller.answer().body == b"body"

    def test_an_old_one_is_not_asked(self, server: Server) -> None:
        lines = ("Content-Length: 4", "Expect: 100-continue")
        caller = server.call(head("/echo", *lines, version="1.0"))
        time.sleep(0.2)
        caller.send(b"body")
        assert caller.answer().body == b"body"

    def test_a_body_over_the_limit_is_not_asked_for(self, server: Server) -> None:
        lines = (f"Content-Length: {MOST_BODY + 1}", "Expect: 100-continue")
        assert server.call(head("/refuse", *lines)).answer().status == 401

    def test_another_expectation(self, server: Server) -> None:
        caller = server.call(head("/echo", "Content-Length: 4", "Expect: a-miracle"))
        caller.problem(417, "expectation-failed")


SLOW = {
    "head": (head("/slow")[:-4], b"a"),
    "body": (head("/echo", "Content-Length: 1000"), b"a"),
    "chunks": (head("/echo", "Transfer-Encoding: chunked"), b"1\r\na\r\n"),
    "chunk": (head("/echo", "Transfer-Encoding: chunked") + b"ffff\r\n", b"a"),
    "trailers": (head("/echo", "Transfer-Encoding: chunked") + b"0\r\nX-Trailer: ", b"a"),
    "waiting": (head("/echo", "Content-Length: 1000", "Expect: 100-continue"), b""),
}


class TestSlowCallers:
    @pytest.mark.parametrize(("start", "drop"), SLOW.values(), ids=SLOW)
    def test_a_request_that_stalls(self, server: Server, start: bytes, drop: bytes) -> None:
        caller = server.call(start + drop)
        self.is_refused(caller, start)

    @pytest.mark.parametrize(
        ("start", "drop"), [pair for pair in SLOW.values() if pair[1]], ids=[*SLOW][:-1]
    )
    def test_a_request_that_drips(self, server: Server, start: bytes, drop: bytes) -> None:
        caller = server.call(start)
        started = time.monotonic()
        caller.socket.setblocking(False)
        while not has_answer(caller.socket):
            caller.socket.send(drop)
            time.sleep(0.02)
            assert time.monotonic() - started < 0.6 + LATE_S
        caller.socket.settimeout(5)
        self.is_refused(caller, start)

    def test_many_slow_ones_hold_nobody_up(self, server: Server) -> None:
        for _ in range(200 // len(SLOW)):
            server.call()
            for start, drop in SLOW.values():
                server.call(start + drop)
        for _ in range(5):
            server.answers_at_once()
        body = noise(MIB)
        assert same(server.call(post("/echo", body)).answer().body, body)

    def test_uploads_that_are_too_much_to_hold(self, server: Server) -> None:
        callers = [server.call(head("/echo", f"Content-Length: {5 * MIB}")) for _ in range(5)]
        for caller in callers:
            with contextlib.suppress(ConnectionError):
                caller.send(bytes(4 * MIB + 1000))
        full = callers[-1].problem(503, "unavailable")
        assert int(full.headers["Retry-After"]) > 0
        server.answers_at_once()
        assert callers[0].answer().status in (408, 503)

    def is_refused(self, caller: Caller, start: bytes) -> None:
        if b"Expect" in start:
            caller.interim()
        started = time.monotonic()
        caller.problem(408, "request-timeout")
        assert time.monotonic() - started < 0.6 + LATE_S

    def test_an_answer_that_is_not_taken_is_given_up(self) -> None:
        ours, theirs = socket.socketpair()
        with Socket(fileno=ours.detach()) as sender, theirs:
            sender.pace = Pace(head_s=1, stall_s=0.2, least_rate=100 * MIB)
            started = time.monotonic()
            with pytest.raises(ConnectionResetError) as caught:
                sender.sendall(bytes(10 * MIB))
            assert caught.value.errno == errno.ECONNRESET
            assert 0.2 < time.monotonic() - started < 2


def has_answer(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


class TestErrors:
    @pytest.mark.parametrize(
        ("sent", "status", "code"),
        [
            (b"NONSENSE\r\n\r\n", 400, "malformed"),
            (b"\x16\x03\x01\x02\x00\n", 400, "malformed"),
            (b"GET / HTTP/1.1\nHost: x\n\n", 400, "malformed"),
            (head("/", "Bad Header: x"), 400, "malformed"),
            (head("/", "Content-Length: -5"), 400, "malformed"),
            (head("/", "Content-Length: 5", "Content-Length: 6") + b"12345", 400, "malformed"),
            (post("/echo", b"x", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, "malformed"),
            (head("/echo", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "malformed"),
            (head("/echo", "Transfer-Encoding: chunked") + b"1\r\naa\r\n0\r\n\r\n", 400,
             "malformed"),
            (head("/echo", "Transfer-Encoding: chunked") + b"-1\r\n", 400, "malformed"),
            (head("/echo", "Transfer-Encoding: chunked") + b"0" * 9000, 400, "malformed"),
            (head("/echo", "Transfer-Encoding: rot13") + b"0\r\n\r\n", 501, "not-implemented"),
            (head("/" + "a" * 9000), 414, "uri-too-long"),
            (head("/", "X: " + "a" * 9000), 431, "headers-too-large"),
            (head("/", *(f"X-{number}: a" for number in range(500))), 431, "headers-too-large"),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * MOST_HEAD, 431, "headers-too-large"),
            (head("/echo", "Transfer-Encoding: chunked") + b"1\r\na\r\n" * 70_000, 413,
             "too-many-chunks"),
        ],
        ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
    )  # fmt: skip
    def test_what_is_not_http_is_answered_with_a_problem(
        self, server: Server, sent: bytes, status: int, code: str
    ) -> None:
        server.call(sent).problem(status, code)
        server.answers_at_once()


class TestStopping:
    def test_requests_under_way_end_and_slow_ones_do_not_delay_it(self, tmp_path: Path) -> None:
        with start(tmp_path) as server:
            slow = [server.call(start) for start, _ in SLOW.values()] + [server.call()]
            busy = server.call(head("/wait"))
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert busy.answer().body == b"waited"
            assert server.process.wait(10) == 0
            for caller in (busy, *slow):
                caller.close()

    def test_who_stays_long_is_told_of_the_end(self, tmp_path: Path) -> None:
        with start(tmp_path) as server:
            staying = server.call(head("/stay"))
            server.answers_at_once()
            server.process.send_signal(signal.SIGTERM)
            assert staying.answer().body == b"stopping"
            staying.close()

    def test_a_fault_is_told_and_an_idle_caller_does_not_delay_the_end(
        self, tmp_path: Path
    ) -> None:
        with start(tmp_path) as server:
            caller, idle = server.call(head("/planted")), server.call()
            caller.problem(500, "internal")
            caller.close()
            assert "Traceback" in server.log.read_text()
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert idle.is_closed()
            assert time.monotonic() - started < KEEPALIVE_S - 0.5
            idle.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


class TestFraming:
    """Where a request ends, against what gunicorn reads from the same bytes."""

    MESSAGES = (
        head("/"),
        b"\r\n" + head("/"),
        post("/", b"body\r\n\r\n0\r\n\r\n"),
        head("/", "content-LENGTH: \t3 ") + b"abc",
        post_chunks("/", b"abc\r\n0\r\n\r\n", 4),
        post_chunks("/", b"abc", 1, "X-Trailer: 1", "X-Other: 2"),
        head("/", "TRANSFER-encoding: chunked") + b"00A;a=b\r\n0123456789\r\n000\r\n\r\n",
    )

    @pytest.mark.parametrize("message", MESSAGES)
    def test_it_is_complete_with_its_last_byte(self, message: bytes, pair: Pair) -> None:
        ours, theirs = pair
        for cut in range(len(message)):
            arrival = Arrival(message[:cut], most_body=100)
            assert not arrival.receive(ours), cut
            theirs.sendall(message[cut:])
            assert arrival.receive(ours), cut

    @pytest.mark.parametrize("message", MESSAGES)
    @pytest.mark.parametrize("after", [b"", b"\r\nGET / HTTP/1.1"])
    def test_its_body_is_what_gunicorn_reads(
        self, message: bytes, after: bytes, pair: Pair
    ) -> None:
        wanted = parsed(message + after).body.read()
        arrival = Arrival(message + after, most_body=100)
        assert arrival.receive(pair[0])
        request = parsed(arrival.head)
        assert arrival.hand_over(request) == after
        assert request.body.read() == wanted

    def test_noise_in_a_request_is_read_alike_or_refused(self, pair: Pair) -> None:
        draw = random.Random(0)
        read = 0
        for _ in range(5000):
            message = bytearray(draw.choice(self.MESSAGES))
            for _ in range(draw.randint(1, 3)):
                message[draw.randrange(len(message))] = draw.choice(b"\r\n\t 019aAfF;:-+_xX\0\xff")
            theirs = judged(bytes(message))
            assert gathered(bytes(message), pair[0]) == theirs, bytes(message)
            read += theirs is not None
        assert 500 < read < 4500

    def test_a_length_over_the_limit_ends_the_connection(self, pair: Pair) -> None:
        arrival = Arrival(post("/", bytes(101))[:-1], most_body=100)
        assert arrival.receive(pair[0])
        request = parsed(arrival.head)
        assert arrival.hand_over(request) == b""
        assert request.body.read() == b""
        assert request.should_close()

    def test_a_head_without_end(self, pair: Pair) -> None:
        with pytest.raises(LimitRequestHeaders):
            Arrival(b"a" * (MOST_HEAD + 1), most_body=100).receive(pair[0])

    def test_trailers_without_end(self, pair: Pair) -> None:
        start = head("/", "Transfer-Encoding: chunked") + b"0\r\nX: "
        with pytest.raises(LimitRequestHeaders, match="trailers"):
            Arrival(start + b"a" * MOST_HEAD, most_body=100).receive(pair[0])

    def test_chunks_announced_above_the_limit(self, pair: Pair) -> None:
        start = head("/", "Transfer-Encoding: chunked")
        with pytest.raises(Problem, match="at most 100 bytes"):
            Arrival(start + b"65\r\n", most_body=100).receive(pair[0])
        assert not Arrival(start + b"64\r\n", most_body=100).receive(pair[0])
        with pytest.raises(Problem, match="at most 100 bytes"):
            Arrival(start + b"1;" + b"a" * 200 + b"\r\n", most_body=100).receive(pair[0])


class TestDeadlines:
    PACE = Pace(head_s=3.0, stall_s=5.0, least_rate=10.0)
    HEAD = head("/", "Content-Length: 1000")

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        now = SimpleNamespace(s=100.0)
        time_of = SimpleNamespace(monotonic=lambda: now.s)
        monkeypatch.setattr("services.gateway.arrival.time", time_of)
        return now

    def test_a_head_has_its_time_from_its_first_byte(
        self, clock: SimpleNamespace, pair: Pair
    ) -> None:
        arrival = Arrival(b"", most_body=1000)
        for clock.s, sent in ((107.0, b"G"), (109.0, b"E")):
            pair[1].sendall(sent)
            assert not arrival.receive(pair[0])
            assert arrival.deadline(self.PACE) == 110

    def test_a_body_may_not_stall_nor_be_slower_than_the_least_rate(
        self, clock: SimpleNamespace, pair: Pair
    ) -> None:
        arrival = Arrival(self.HEAD, most_body=1000)
        steps = (
            (0, 0, 105),
            (1, 5, 105.5),
            (2, 5, 106),
            (3, 200, 108),
            (20, 10, 125),
            (30, 0, 125),
        )
        for at, size, deadline in steps:
            clock.s = 100.0 + at
            pair[1].sendall(bytes(size))
            assert not arrival.receive(pair[0])
            assert arrival.deadline(self.PACE) == deadline


CONFIG = Config()


def parsed(message: bytes) -> Request:
    return Request(CONFIG, IterUnreader([message]), ("127.0.0.1", 1))


def judged(message: bytes) -> tuple[bytes, bytes] | None:
    """Return the body and what comes after it, None where gunicorn refuses or waits for more."""
    source = IterUnreader([message])
    try:
        request = Request(CONFIG, source, ("127.0.0.1", 1))
        missing = getattr(request.body.reader, "length", 0)
        body = request.body.read()
        return (body, source.take_buffered()) if len(body) >= missing else None
    except (ParseException, NoMoreData, StopIteration):
        return None


def gathered(message: bytes, quiet: socket.socket) -> tuple[bytes, bytes] | None:
    """Return the same by way of an arrival."""
    arrival = Arrival(message, most_body=100)
    try:
        if not arrival.receive(quiet):
            return None
        request = parsed(arrival.head)
        rest = arrival.hand_over(request)
        return request.body.read(), rest
    except (Problem, ParseException, NoMoreData):
        return None
