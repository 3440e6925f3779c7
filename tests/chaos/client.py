"""A caller as the API's documentation wants it: one retry, `Retry-After` honoured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3

from tests.chaos.kinds import Kind
from tests.e2e.running import Response, Running

RETRY_AFTER_S = 0.5
"""How long to wait where the answer does not say."""
LONGEST_WAIT_S = 10.0
PATIENCE_S = 90.0


def ask(send: Callable[[], Response]) -> tuple[Response | None, str]:
    """Send once; return the answer, and what is wrong where it has to be sent again."""
    try:
        response = send()
    except urllib3.exceptions.HTTPError as error:
        return None, type(error).__name__
    if response.status >= 500 or response.status == 429:
        return response, f"{response.status} {_code(response)}"
    return response, ""


def pause_before_retry(response: Response | None) -> None:
    """Wait as long as the answer asks for, if there was one."""
    text = response.headers.get("Retry-After", "") if response is not None else ""
    time.sleep(float(text) if text.isdigit() else RETRY_AFTER_S)


def persistently(send: Callable[[], Response]) -> Response | None:
    """Send again and again until an answer is other than a passing failure; None at last."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        response, wrong = ask(send)
        if not wrong:
            return response
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        time.sleep(min(LONGEST_WAIT_S, float(asked)) if asked.isdigit() else RETRY_AFTER_S)
    return None


def post(stack: Running, kind: Kind, headers: Mapping[str, str], **options: Any) -> Response:
    """Send one call of a kind, never answered from memory."""
    return stack.form(kind.technique, kind.pictures, headers=headers, **kind.params, **options)


def document(response: Response) -> Any:
    """Read a JSON answer."""
    return json.loads(response.data)


def _code(response: Response) -> str:
    try:
        return str(document(response)["type"]).rpartition("/")[2]
    except (ValueError, KeyError, TypeError):
        return ""
