"""A live stream through the whole service: gateway, WebSocket, TorchServe."""

from __future__ import annotations

import json
from typing import Any

import pytest
import simple_websocket  # type: ignore[import-untyped]

from tests.e2e.pictures import decode, kind_of
from tests.e2e.running import Running, problem

pytestmark = pytest.mark.e2e


HANDSHAKE: dict[str, str | None] = {
    "upgrade": "websocket", "connection": "Upgrade", "sec_websocket_version": "13",
    "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def connect(stack: Running, query: str) -> Any:
    return simple_websocket.Client.connect(f"ws://127.0.0.1:{stack.port}/v1/stream?{query}")


def painted(client: Any) -> bytes:
    while True:
        message = client.receive(timeout=20)
        assert message is not None
        if isinstance(message, (bytes, bytearray)):
            return bytes(message)
        assert json.loads(message)["type"] == "rate", message


def test_frames_are_painted_as_they_come(stack: Running, small_cat: bytes) -> None:
    client = connect(stack, "style=starry-night&fps=4&size=256")
    for _ in range(3):
        client.send(small_cat)
        frame = painted(client)
        assert kind_of(frame) == "JPEG"
        height, width, _ = decode(frame).shape
        assert 96 <= max(height, width) <= 256
    client.send(json.dumps({"strength": 0.0}))
    client.send(small_cat)
    assert painted(client) != frame
    client.close()


def test_a_flood_of_frames_is_answered_by_the_newest(stack: Running, small_cat: bytes) -> None:
    client = connect(stack, "fps=5")
    for _ in range(30):
        client.send(small_cat)
    answers, dropped = 0, 0
    while answers + dropped < 30:
        message = client.receive(timeout=5)
        if message is None:
            break
        if isinstance(message, str):
            dropped += json.loads(message).get("dropped", 0)
        else:
            answers += 1
    assert 1 <= answers < 30
    client.close()
    assert stack.ready()


def test_mistakes_end_nothing(stack: Running, small_cat: bytes) -> None:
    client = connect(stack, "size=128")
    client.send(b"no picture")
    told = json.loads(client.receive(timeout=10))
    assert told["problem"]["status"] == 422
    client.send(small_cat)
    assert painted(client)
    client.close()
    for query, origin, status in (("style=nope", None, 422), ("", "http://elsewhere.example", 403)):
        refused = stack.get(f"/v1/stream?{query}", **HANDSHAKE | {"origin": origin})
        problem(refused, status)
    assert stack.get("/v1/techniques").status == 200
