"""Who may call, and what every answer carries."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence

import flask

from services.gateway.origins import check_caller, let_in
from services.gateway.problems import Problem
from services.gateway.websocket import KEY_PREFIX, protocols
from services.keys import Key
from services.settings import Settings

HEALTH = "/healthz/"
OPEN_PATHS = (HEALTH, "/static/")
OPEN_PAGES = ("/", "/camera", "/docs", "/openapi.json")
# Who owns jobs and files where no key is asked for.
NOBODY = "nobody"
OWNER_DIGITS = 16
# By the blueprint of a route; the others need a key, but none of its scopes.
SCOPE_OF = {
    **dict.fromkeys(("techniques", "stream"), "infer"),
    "jobs": "jobs",
    **dict.fromkeys(("files", "collections", "bringing", "styles"), "files"),
}
# What there is may be read with any key.
LISTS = ("techniques", "styles")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"
    ),
}


def install(app: flask.Flask, settings: Settings) -> None:
    """Check the key of every call, or without keys where it comes from; mark every answer."""
    keys, origins = settings.keys, settings.web_origins

    @app.before_request
    def identify() -> None:
        flask.g.came = time.monotonic()
        given = flask.request.headers.get("X-Request-Id", "")
        flask.g.request_id = given if REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(8)
        flask.g.owner, flask.g.key = NOBODY, Key()
        if not keys and not flask.request.path.startswith(HEALTH):
            check_caller(settings)
        # what may be sent is asked for without a key, and tells no more than the documentation
        if keys and flask.request.method != "OPTIONS" and not _is_open(flask.request.path):
            header = flask.request.headers.get("Authorization") or _offered()
            flask.g.key = _check_key(header, keys)
            flask.g.owner = flask.g.key.digest[:OWNER_DIGITS]
            if scope := _scope(flask.request):
                require(scope)

    @app.after_request
    def mark(response: flask.Response) -> flask.Response:
        response.headers["X-Request-Id"] = flask.g.get("request_id", "")
        response.headers.setdefault("Server-Timing", timing(since_it_came_s()))
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        let_in(response, origins)
        return response


def timing(seconds: float) -> str:
    """Write `Server-Timing` of an answer that no network was asked for."""
    return f"queue;dur={seconds * 1e3:.1f}, decode;dur=0.0, model;dur=0.0, encode;dur=0.0"


def since_it_came_s() -> float:
    """Return the seconds since this request came."""
    now = time.monotonic()
    came: float = flask.g.get("came", now)
    return now - came


def digest(key: str) -> str:
    """Return what is kept of a key: keys have 190 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Make a key."""
    return "lk_" + secrets.token_urlsafe(24)


def _is_open(path: str) -> bool:
    return path in OPEN_PAGES or path.startswith(OPEN_PATHS)


def owner() -> str:
    """Name the caller of this request: jobs and files are shown to their owner alone."""
    name: str = flask.g.owner
    return name


def current_key() -> Key:
    """Return the key of the caller: one that may do everything where none is asked for."""
    known: Key = flask.g.key
    return known


def require(scope: str) -> None:
    """Check that the caller's key has a scope.

    Raises:
        Problem: it has not.
    """
    if scope not in current_key().scopes:
        raise Problem(
            403, "missing-scope",
            f"this key lacks the scope `{scope}`; use one that has it, or have it added",
        )  # fmt: skip


def _scope(request: flask.Request) -> str | None:
    """Name the scope that a route needs; None where any key will do."""
    if request.blueprint in LISTS and request.method in ("GET", "HEAD"):
        return None
    return SCOPE_OF.get(request.blueprint or "")


def _offered() -> str:
    """Return the key that a browser's WebSocket, which can send no header, offers as protocol."""
    keys = [name for name in protocols() if name.startswith(KEY_PREFIX)]
    return f"Bearer {keys[0].removeprefix(KEY_PREFIX)}" if keys else ""


def _check_key(header: str, keys: Sequence[Key]) -> Key:
    scheme, _, key = header.partition(" ")
    shown = digest(key.strip())
    # all of them are compared, so that the time says nothing of their order
    known = [one for one in keys if hmac.compare_digest(shown, one.digest)]
    if scheme.lower() != "bearer" or not known:
        raise Problem(
            401,
            "unauthorized",
            "send a valid key as `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return known[0]
