"""Which web pages may call: this service's own, and those of origins that are let in."""

from __future__ import annotations

import re
from collections.abc import Set

import flask

from services.gateway.problems import Problem
from services.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
# What a page may send and read beside what browsers allow anyway.
TAKEN = (
    *("Authorization", "Cache-Control", "Content-Type", "Idempotency-Key", "If-None-Match"),
    *("Last-Event-ID", "Prefer", "X-Request-Id"),
)
EXPOSED = (
    *("Allow", "Cache-Status", "ETag", "Idempotent-Replayed", "Location", "Preference-Applied"),
    *("Retry-After", "Server-Timing", "WWW-Authenticate", "X-Request-Id"),
)
REMEMBERED_S = 600


def check_caller(settings: Settings) -> None:
    """Refuse the page of another site where no key tells who calls.

    Any page may send forms to this machine, and a page whose name is made to lead here is even
    one of ours to the browser; only the name it calls us by tells.

    Raises:
        Problem: the call is addressed to another name, or comes from another site.
    """
    names = {*LOOPBACK, settings.netloc.rpartition(":")[0]}
    if re.sub(r":[0-9]*$", "", flask.request.host).lower() not in names:
        raise Problem(
            403, "foreign-host",
            f"a service without keys is called by {', '.join(LOOPBACK)} or its LANTERN_HOST alone; "
            "use one of these, or have LANTERN_API_KEYS set",
        )  # fmt: skip
    if flask.request.method not in SAFE:
        check_origin(settings.web_origins)


def check_origin(allowed: Set[str]) -> None:
    """Refuse what the page of another site sends.

    Raises:
        Problem: the page's origin is neither this service's nor one of `allowed`.
    """
    origin = flask.request.headers.get("Origin", "")
    netloc = origin.partition("://")[2]
    if origin and origin not in allowed and (not netloc or netloc != flask.request.host):
        raise Problem(
            403, "foreign-origin",
            "pages of another site may not call; have its origin added to LANTERN_ORIGINS",
        )  # fmt: skip


def let_in(response: flask.Response, allowed: Set[str]) -> None:
    """Say in an answer that the page which asked may read it, where its origin is allowed."""
    if not allowed:
        return
    response.vary.add("Origin")
    origin = flask.request.headers.get("Origin", "")
    if origin not in allowed:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)
    if _is_preflight():
        response.headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        response.headers["Access-Control-Allow-Headers"] = ", ".join(TAKEN)
        response.headers["Access-Control-Max-Age"] = str(REMEMBERED_S)


def _is_preflight() -> bool:
    """Tell whether a browser asks what a page may send; it never shows a key."""
    asked = "Access-Control-Request-Method" in flask.request.headers
    return flask.request.method == "OPTIONS" and asked
