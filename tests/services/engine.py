"""A server that has TorchServe's documented habits."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with one request; `slow_s` passes first, `cut` drops the connection."""

    status: int = 200
    body: bytes = b"picture"
    headers: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0
    cut: bool = False


@dataclass
class Seen:
    """One request that came in; `connection` is the caller's port."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Engine(ThreadingHTTPServer):
    """Plays TorchServe: gives its replies in turn, the last one for good, and keeps requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.replies: list[Reply] = [Reply()]
        self.seen: list[Seen] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let callers leave before a slow answer comes; anything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def reply(self, *replies: Reply | tuple[int, bytes]) -> None:
        self.replies = [r if isinstance(r, Reply) else Reply(*r) for r in replies]


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self.server.seen.append(
            Seen(self.command, self.path, headers, body, self.client_address[1])
        )
        reply = self.server.replies[0]
        if len(self.server.replies) > 1:
            self.server.replies.pop(0)
        time.sleep(reply.slow_s)
        if reply.cut:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *arguments: object) -> None:
        pass
