"""Messages over a WebSocket: whole, in pieces, large, and from callers that break the rules."""

from __future__ import annotations

import fcntl
import resource
import socket

import pytest
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from services.gateway.websocket import Channel, Gone
from tests.services.streaming import Caller, CallerOf, Ends


def test_messages_go_both_ways(ends: Ends) -> None:
    channel, caller = ends
    caller.send(b"a frame", "a text")
    assert channel.receive(1) == [b"a frame", "a text"]
    assert channel.receive(0.01) == []
    channel.send(b"painted")
    channel.send("said")
    assert [e.data for e in caller.events()] == [b"painted", "said"]


def test_a_message_in_pieces_is_put_together(ends: Ends) -> None:
    channel, caller = ends
    for data, is_last in ((b"one ", False), (b"frame", True)):
        event = BytesMessage(data=data, message_finished=is_last)
        caller.sock.sendall(caller.protocol.send(event))
    caller.sock.sendall(caller.protocol.send(TextMessage(data="ä", message_finished=True)))
    found: list[bytes | str] = []
    while len(found) < 2:
        found += channel.receive(1)
    assert found == [b"one frame", "ä"]


def test_all_that_is_there_comes_at_once_however_large(caller_of: CallerOf) -> None:
    channel, caller = caller_of(most=1_000_000)
    frames = [letter * 100_000 for letter in (b"a", b"b")]
    caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    caller.send(*frames)
    assert channel.receive(1) == frames


def test_a_caller_that_never_stops_is_heard_in_parts(caller_of: CallerOf) -> None:
    channel, caller = caller_of(most=1000)
    caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
    caller.send(*[b"x" * 1000] * 200)
    assert 1 < len(channel.receive(1)) < 200


def test_a_stream_may_be_any_of_many_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    one, other = socket.socketpair()
    try:
        with one, other, socket.socket(fileno=fcntl.fcntl(one, fcntl.F_DUPFD, 1500)) as high:
            channel, caller = Channel(high, most=1000), Caller(other)
            caller.send("heard")
            assert channel.receive(1) == ["heard"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_ping_is_answered(ends: Ends) -> None:
    channel, caller = ends
    caller.sock.sendall(caller.protocol.send(Ping(payload=b"?")))
    assert channel.receive(0.05) == []
    (pong,) = caller.events()
    assert isinstance(pong, Pong)
    channel.ping()
    assert isinstance(caller.events()[0], Ping)


@pytest.mark.parametrize("how", ["close", "vanish", "huge", "nonsense"])
def test_who_leaves_or_breaks_the_rules_is_let_go(ends: Ends, how: str) -> None:
    channel, caller = ends
    codes = {"close": 1000, "huge": 1009, "nonsense": 1002}
    if how == "close":
        caller.sock.sendall(caller.protocol.send(CloseConnection(code=1000)))
    elif how == "vanish":
        caller.sock.close()
    elif how == "huge":
        caller.send(bytes(1001))
    else:
        caller.sock.sendall(b"\xff" * 64)
    with pytest.raises(Gone):
        channel.receive(1)
    if how in codes:
        closing = [e for e in caller.events() if isinstance(e, CloseConnection)]
        assert [e.code for e in closing] == [codes[how]]
    else:
        with pytest.raises(Gone):
            channel.send(b"x" * 10_000_000)
