"""A live stream keeps to the rate, takes the newest frame, and outlives mistakes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient
from wsproto.events import CloseConnection

from lantern import registry
from lantern.call import Answer, Call
from lantern.errors import InvalidParameter, LanternError
from lantern.registry import Technique
from services.backend import EngineFailed, Unavailable
from services.gateway.app import create_app
from services.gateway.guard import digest
from services.gateway.stream import TECHNIQUE, Rate, Session, read_settings
from services.gateway.websocket import Channel, Gone, switch
from services.settings import Settings
from tests.films import film
from tests.services.gateway import PHOTO, problem
from tests.services.streaming import Caller, CallerOf, Ends
from tests.waiting import in_a_moment

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


# --- The rate ----------------------------------------------------------------------------------


def settled(rate: Rate, seconds_of: Callable[[int], float], frames: int = 80) -> int:
    for _ in range(frames):
        rate.took(seconds_of(rate.size))
    return rate.size


@pytest.mark.parametrize("per_megapixel", [0.05, 0.3, 1.0])
def test_the_size_is_what_the_rate_allows(per_megapixel: float) -> None:
    def seconds(size: int) -> float:
        return per_megapixel * size * size / 1e6

    rate = Rate(12, 1024)
    size = settled(rate, seconds)
    assert seconds(size) <= 1 / 12
    # and not much smaller than it could be
    assert size >= min(1024, (1e6 / 12 / per_megapixel) ** 0.5) - 3 * rate.step


def test_noise_changes_no_size() -> None:
    rate = Rate(10, 1024)
    times = iter([0.8, 1.1, 0.9, 1.2, 1.0] * 40)
    settled(rate, lambda size: 0.3 * size * size / 1e6 * 1.0, 30)
    sizes = set()
    for _ in range(60):
        rate.took(0.3 * rate.size**2 / 1e6 * (0.9 + 0.1 * next(times)))
        sizes.add(rate.size)
    assert len(sizes) <= 2


def test_sizes_stay_within_bounds() -> None:
    assert settled(Rate(60, 1024), lambda _: 2.0) == 96
    assert settled(Rate(1, 700), lambda _: 1e-4) == 700
    assert settled(Rate(30, 64), lambda _: 2.0) in (64, 96)


# --- A session ---------------------------------------------------------------------------------


@pytest.fixture
def application(settings: Settings) -> Iterator[flask.Flask]:
    app = create_app(settings)
    with app.test_request_context():
        flask.g.owner = "me"
        yield app


Engine = Callable[[Technique, Call], Answer]


class Talk:
    """A session in a thread of its own, and its caller."""

    def __init__(self, app: flask.Flask, engine: Engine, **params: str) -> None:
        self.sock, other = socket.socketpair()
        fps, call = read_settings({"style": "starry-night"} | params, text=True)
        self.caller = Caller(other)
        self.session = Session(registry.find(TECHNIQUE), call, Rate(fps, int(call.params["size"])))
        channel = Channel(self.sock, most=1_000_000)
        self.found: list[Any] = []

        def serve() -> None:
            with app.test_request_context():
                flask.g.owner = "me"
                with pytest.raises(Gone):
                    self.session.serve(channel, engine)

        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def next(self) -> Any:
        while not self.found:
            self.found += [e.data for e in self.caller.events() if hasattr(e, "data")]
        first = self.found.pop(0)
        return json.loads(first) if isinstance(first, str) else first

    def end(self) -> None:
        self.caller.sock.close()
        self.thread.join(5)
        self.sock.close()
        assert not self.thread.is_alive()


def test_each_frame_is_a_call_and_the_newest_counts(application: flask.Flask) -> None:
    calls: list[Call] = []
    go = threading.Event()

    def engine(_: Technique, call: Call) -> Answer:
        calls.append(call)
        assert go.wait(5)
        return Answer(b"painted " + str(len(calls)).encode(), "image/jpeg", {})

    talk = Talk(application, engine, size="640", strength="0.5")
    talk.caller.send(PHOTO)
    while not calls:
        go.wait(0.01)
    talk.caller.send(PHOTO + b"1", PHOTO + b"2", PHOTO + b"3")
    go.set()
    assert talk.next() == b"painted 1"
    assert talk.next() == b"painted 2"
    talk.end()
    assert [call.inputs["image"] for call in calls] == [PHOTO, PHOTO + b"3"]
    assert talk.session.dropped == 2
    assert calls[0].params["strength"] == 0.5
    assert calls[0].params["size"] == 512


def test_late_frames_are_dropped_also_where_they_are_large(application: flask.Flask) -> None:
    calls: list[bytes] = []
    go = threading.Event()

    def engine(_: Technique, call: Call) -> Answer:
        calls.append(call.inputs["image"])
        assert go.wait(5)
        return Answer(b"painted", "image/jpeg", {})

    talk = Talk(application, engine)
    talk.caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    frames = [PHOTO, *(PHOTO + letter * 100_000 for letter in (b"1", b"2"))]
    talk.caller.send(frames[0])
    while not calls:
        go.wait(0.01)
    talk.caller.send(*frames[1:])
    go.set()
    assert [talk.next(), talk.next()] == [b"painted", b"painted"]
    talk.end()
    assert calls == [frames[0], frames[2]]
    assert talk.session.dropped == 1


def test_parameters_change_on_the_way(application: flask.Flask) -> None:
    def engine(_: Technique, call: Call) -> Answer:
        return Answer(json.dumps(call.params).encode(), "image/jpeg", {})

    talk = Talk(application, engine)
    talk.caller.send(json.dumps({"strength": 0.25, "fps": 5, "size": 320}))
    assert talk.next()["type"] == "rate"
    talk.caller.send(PHOTO)
    params = json.loads(talk.next())
    assert (params["strength"], params["size"]) == (0.25, 320)
    assert talk.session.rate.fps == 5
    talk.end()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "malformed"),
        ("[1]", "malformed"),
        ("[" * 2000 + "]" * 2000, "malformed"),
        ('{"fps": 8, "fps": 9}', "malformed"),
        ('{"fps": 1' + "0" * 400 + "}", "invalid-parameter"),
        ('{"strength": 1' + "0" * 400 + "}", "invalid-parameter"),
        ('{"fps": 1000}', "invalid-parameter"),
        ('{"fps": null}', "invalid-parameter"),
        ('{"strength": "0.5"}', "invalid-parameter"),
        ('{"style": "nope"}', "unknown-style"),
        ('{"style": "sty_00000000000000000000000000000000"}', "unknown-style"),
        ('{"model": "vgg19"}', "invalid-parameter"),
        ('{"x": "' + "y" * 5000 + '"}', "invalid-parameter"),
        (b"no picture", "bad-image"),
        (b"", "bad-image"),
    ],
)
def test_mistakes_are_told_and_the_stream_goes_on(
    application: flask.Flask, message: bytes | str, code: str
) -> None:
    talk = Talk(application, lambda *_: Answer(b"painted", "image/jpeg", {}))
    talk.caller.send(message)
    told = talk.next()
    assert told["type"] == "problem"
    assert told["problem"]["type"].startswith("/problems/")
    assert told["problem"]["type"].endswith(code) or message in (b"", b"no picture")
    talk.caller.send(PHOTO)
    assert talk.next() == b"painted"
    talk.end()


def test_an_engine_that_is_busy_or_fails_is_told_and_asked_again(application: flask.Flask) -> None:
    answers = iter(
        [Unavailable("the engine is busy"), LanternError("it is too much"), EngineFailed()]
    )

    def engine(*_: Any) -> Answer:
        if error := next(answers, None):
            raise error
        return Answer(b"painted", "image/jpeg", {})

    talk = Talk(application, engine)
    told = []
    for _ in range(3):
        talk.caller.send(PHOTO)
        told.append(talk.next()["problem"]["status"])
    assert told == [503, 422, 500]
    talk.caller.send(PHOTO)
    assert talk.next() == b"painted"
    talk.end()


def test_a_film_is_no_frame(application: flask.Flask) -> None:
    calls: list[Call] = []

    def engine(_: Technique, call: Call) -> Answer:
        calls.append(call)
        return Answer(b"painted", "image/jpeg", {})

    talk = Talk(application, engine)
    for kind in ("GIF", "WEBP"):
        talk.caller.send(film(kind))
        told = talk.next()["problem"]
        assert (told["status"], told["type"]) == (422, "/problems/not-a-still")
    talk.caller.send(PHOTO)
    assert talk.next() == b"painted"
    talk.end()
    assert len(calls) == 1


# --- Its end -----------------------------------------------------------------------------------


def goodbye(caller: Caller) -> CloseConnection:
    while True:
        for event in caller.events():
            if isinstance(event, CloseConnection):
                return event


def test_without_frames_it_ends_and_says_so(application: flask.Flask, ends: Ends) -> None:
    channel, caller = ends
    fps, call = read_settings({"style": "starry-night"}, text=True)
    session = Session(registry.find(TECHNIQUE), call, Rate(fps, 512), idle_s=0.2)
    session.serve(channel, lambda *_: Answer(b"painted", "image/jpeg", {}))
    told = goodbye(caller)
    assert (told.code, told.reason) == (1000, "no frames for 0.2 s")


def test_a_service_that_stops_says_so(caller_of: CallerOf) -> None:
    stopping = threading.Event()
    channel, caller = caller_of(most=1000, is_stopping=stopping.is_set)
    caller.send("before")
    assert channel.receive(1) == ["before"]
    with in_a_moment(0.1, stopping.set), pytest.raises(Gone):
        channel.receive(10)
    told = goodbye(caller)
    assert told.code == 1001
    assert "again" in (told.reason or "")


def test_a_fault_of_ours_is_told_and_logged(
    app: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Channel) -> None:
        raise ZeroDivisionError

    ours, theirs = socket.socketpair()
    with ours, theirs:
        given = {"gunicorn.socket": ours}
        with app.test_request_context(headers=HANDSHAKE, environ_overrides=given):
            for _ in switch(broken, most=1000).response:
                pass
        told = goodbye(Caller(theirs))
    assert (told.code, told.reason) == (1011, "the service failed; the fault is not yours")
    assert "ZeroDivisionError" in caplog.text


# --- The handshake -----------------------------------------------------------------------------


def test_what_is_no_handshake_is_refused(http: FlaskClient) -> None:
    told = http.get("/v1/stream")
    problem(told, 426, "upgrade-required")
    assert told.headers["Upgrade"] == "websocket"
    for change in ({"Sec-WebSocket-Version": "8"}, {"Sec-WebSocket-Key": "short"}):
        problem(http.get("/v1/stream", headers=HANDSHAKE | change), 400, "invalid-header")
    foreign = HANDSHAKE | {"Origin": "http://elsewhere.example"}
    problem(http.get("/v1/stream", headers=foreign), 403, "foreign-origin")
    problem(http.get("/v1/stream", headers=HANDSHAKE), 501, "not-implemented")
    wrong = {"style": "nope"}
    problem(http.get("/v1/stream", query_string=wrong, headers=HANDSHAKE), 422, "unknown-style")


def test_a_stream_frees_its_seat_when_it_ends(make_http: Callable[..., FlaskClient]) -> None:
    http = make_http(max_streams=1)
    for _ in range(3):
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours:
            answer = http.get(
                "/v1/stream", headers=HANDSHAKE, environ_overrides={"gunicorn.socket": ours}
            )
        assert answer.status_code == 101
        assert answer.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_a_browser_offers_its_key_as_a_protocol(make_http: Callable[..., FlaskClient]) -> None:
    http = make_http(api_keys=digest("a-key"))
    problem(http.get("/v1/stream", headers=HANDSHAKE), 401)
    wrong = HANDSHAKE | {"Sec-WebSocket-Protocol": "lantern, bearer.another"}
    problem(http.get("/v1/stream", headers=wrong), 401)
    right = HANDSHAKE | {"Sec-WebSocket-Protocol": "lantern, bearer.a-key"}
    problem(http.get("/v1/stream", headers=right), 501)


def test_rates_are_within_bounds(application: flask.Flask) -> None:
    for text in ("0", "61", "nan", "x", ""):
        with pytest.raises(InvalidParameter, match="from 1 to 60"):
            read_settings({"fps": text}, text=True)


def test_smoothing_is_refused_as_it_would_do_nothing() -> None:
    with pytest.raises(InvalidParameter, match="for animations") as caught:
        read_settings({"smoothing": "0.8"}, text=True)
    assert caught.value.pointer == "/params/smoothing"
