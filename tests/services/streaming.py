"""The two ends of a stream, a socket between them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, TextMessage

from services.gateway.websocket import Channel


def message_of(data: bytes | str) -> Event:
    return TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)


class Caller:
    """The other end of a channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.protocol = sock, Connection(ConnectionType.CLIENT)
        sock.settimeout(5)

    def send(self, *messages: bytes | str) -> None:
        self.sock.sendall(b"".join(self.protocol.send(message_of(m)) for m in messages))

    def events(self) -> list[Any]:
        self.protocol.receive_data(self.sock.recv(1_000_000) or None)
        return list(self.protocol.events())


Ends = tuple[Channel, Caller]
CallerOf = Callable[..., Ends]
