"""WebSockets under gunicorn: the answer takes the connection over (RFC 6455)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import flask
from werkzeug.wsgi import ClosingIterator
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token

from services.gateway.origins import check_origin
from services.gateway.problems import Problem

log = logging.getLogger("lantern.gateway")

BLOCK = 64 * 1024
# how often a channel that waits looks whether the service is stopping
LOOK_EVERY_S = 0.5
PING_EVERY_S = 20.0
KEY_PREFIX = "bearer."


class Gone(Exception):
    """The caller has left."""


class Channel:
    """Messages to and from one caller, `bytes` or `str`, of at most `most` bytes.

    `is_stopping` tells whether the service is.
    """

    def __init__(
        self, sock: Any, *, most: int, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._sock, self._most, self._is_stopping = sock, most, is_stopping
        # select() knows no file above the 1023rd
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._protocol = Connection(ConnectionType.SERVER)
        self._parts: list[Any] = []  # of a message that comes in pieces

    def send(self, message: bytes | str) -> None:
        """Send a message.

        Raises:
            Gone: the caller is not there, or does not take it.
        """
        self._write(Message(data=message))

    def receive(self, timeout_s: float) -> list[bytes | str]:
        """Wait for messages; return those that are there, none where none came in time.

        Raises:
            Gone: the caller has left, or broke the protocol, or was told that the service stops.
        """
        found: list[bytes | str] = []
        deadline = time.monotonic() + timeout_s
        while not found and (left := deadline - time.monotonic()) > 0:
            if self._is_stopping():
                self.close(CloseReason.GOING_AWAY, "the service is stopping; connect again")
                raise Gone
            found += self._arrived(min(left, LOOK_EVERY_S)) or []
        # a caller that never stops sending has its next messages read the next time
        for _ in range(2 * self._most // BLOCK + 1):
            if not found or (more := self._arrived(0)) is None:
                break
            found += more
        return found

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Take leave, if there is somebody."""
        if self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            try:
                self._write(CloseConnection(code=code, reason=reason))
            except Gone:
                return

    def ping(self) -> None:
        """Ask whether the caller is still there."""
        self._write(Ping())

    def _arrived(self, timeout_s: float) -> list[bytes | str] | None:
        """Read a block; return the messages that end in it, None where nothing came in time."""
        if not self._readable.poll(timeout_s * 1000):
            return None
        try:
            data = self._sock.recv(BLOCK)
            if not data:
                raise Gone
            self._protocol.receive_data(data)
            return [message for event in self._protocol.events() for message in self._met(event)]
        except (OSError, LocalProtocolError) as error:
            raise Gone from error
        except RemoteProtocolError as error:
            self.close(CloseReason.PROTOCOL_ERROR)
            raise Gone from error

    def _met(self, event: Any) -> Iterator[bytes | str]:
        if isinstance(event, CloseConnection):
            self.close(event.code)
            raise Gone
        if isinstance(event, Ping):
            self._write(Pong(payload=event.payload))
        elif isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)
            if sum(map(len, self._parts)) > self._most:
                self.close(CloseReason.MESSAGE_TOO_BIG, f"at most {self._most} bytes")
                raise Gone
            if event.message_finished:
                whole, self._parts = self._parts, []
                yield "".join(whole) if isinstance(event, TextMessage) else b"".join(whole)

    def _write(self, event: Any) -> None:
        try:
            self._sock.sendall(self._protocol.send(event))
        except (OSError, LocalProtocolError) as error:
            raise Gone from error


class Switched(flask.Response):
    """An answer after which the connection is a WebSocket's."""

    def get_app_iter(self, environ: Any) -> Iterable[bytes]:
        """Return what takes over; an informational answer has no body otherwise."""
        return ClosingIterator(self.response, self.close)  # type: ignore[arg-type]


def switch(
    talk: Callable[[Channel], None], *, most: int, origins: Set[str] = frozenset()
) -> flask.Response:
    """Answer with a WebSocket that `talk` has for as long as it likes, within this request.

    `most` are the bytes of a message, `origins` those of other sites whose pages may connect.
    Browsers, which cannot send a key as a header, offer it as the protocol `bearer.<key>` beside
    another, which is chosen.

    Raises:
        Problem: the request is no handshake, or comes from a page of another site.
    """
    headers = flask.request.headers
    if headers.get("Upgrade", "").lower() != "websocket":
        raise Problem(
            426, "upgrade-required", "this is a WebSocket: connect with ws:// or wss://",
            headers={"Upgrade": "websocket"},
        )  # fmt: skip
    token = headers.get("Sec-WebSocket-Key", "")
    if headers.get("Sec-WebSocket-Version") != "13" or not _is_token(token):
        raise Problem(
            400, "invalid-header", "send Sec-WebSocket-Version 13 and a key of 16 bytes in base64"
        )
    check_origin(origins)
    sock = flask.request.environ.get("gunicorn.socket")
    if sock is None:
        raise Problem(501, "not-implemented", "this server has no WebSockets")
    answer = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": generate_accept_token(token.encode()).decode(),
    }
    if chosen := [name for name in protocols() if not name.startswith(KEY_PREFIX)]:
        answer["Sec-WebSocket-Protocol"] = chosen[0]
    return Switched(
        flask.stream_with_context(_taken_over(sock, talk, most)), status=101, headers=answer
    )


def protocols() -> list[str]:
    """Return the protocols that the caller offers."""
    offered = flask.request.headers.get("Sec-WebSocket-Protocol", "")
    return [name.strip() for name in offered.split(",") if name.strip()]


def _taken_over(sock: Any, talk: Callable[[Channel], None], most: int) -> Iterator[bytes]:
    yield b""  # now the headers are sent
    channel = Channel(sock, most=most, is_stopping=getattr(sock, "is_stopping", lambda: False))
    try:
        talk(channel)
        channel.close()
    except Gone:
        pass
    except Exception:
        log.exception("a stream failed")
        channel.close(CloseReason.INTERNAL_ERROR, "the service failed; the fault is not yours")
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # nothing after this is HTTP


def _is_token(token: str) -> bool:
    try:
        return len(base64.b64decode(token, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
