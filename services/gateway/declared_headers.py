"""The request headers that the interface reads, for its OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.gateway.preferences import LONGEST_WAIT_S
from services.gateway.submission import LONGEST_KEY

_DESCRIPTIONS: Mapping[str, str] = {
    "Prefer": (
        f"`wait=N` waits up to N seconds, {LONGEST_WAIT_S} at most, for the result; "
        "`respond-async` makes a job of any call"
    ),
    "Idempotency-Key": (
        "a call that is sent again with the same key finds the job it has made, another call is "
        "refused; calls that are answered at once make no job, and their key does not count"
    ),
    "If-None-Match": "ETags of what the caller has: where the answer is one of them it is 304",
    "Cache-Control": "`no-cache` has the call computed, whatever was computed before",
    "Last-Event-ID": "the last event that was received; the stream goes on behind it",
}
OF_TECHNIQUES = ("Prefer", "Idempotency-Key", "If-None-Match", "Cache-Control")
# what is answered with the ETag of a file
_FILES = re.compile(
    r"/v1/(files|samples|collections/\{name\}/images)/\{(name|picture)\}|/v1/styles/\{name\}/thumbnail"
    r"|/v1/jobs/\{job_id\}/(result|artifacts/\{name\})"
)


def headers_of(path: str, method: str) -> list[dict[str, Any]]:
    """Declare the headers that a route other than those of techniques reads."""
    if path.endswith("/events"):
        return [header("Last-Event-ID")]
    return [header("If-None-Match")] if method == "GET" and reads_etags(path) else []


def reads_etags(path: str) -> bool:
    """Tell whether what is read there has an ETag."""
    return _FILES.fullmatch(path) is not None


def header(name: str) -> dict[str, Any]:
    """Declare one header."""
    kind: dict[str, Any] = {"type": "string"}
    if name == "Idempotency-Key":
        kind["maxLength"] = LONGEST_KEY
    return {"name": name, "in": "header", "schema": kind, "description": _DESCRIPTIONS[name]}
