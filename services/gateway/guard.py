"""Who may call, and what every answer carries."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

import flask
from gunicorn.http.errors import ParseException

from services.gateway.problems import Problem
from services.settings import Settings

OPEN_PATHS = ("/healthz/", "/static/")
OPEN_PAGES = ("/", "/docs", "/openapi.json")
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
    """Check the key of every call and mark every answer."""
    digests = settings.key_digests

    @app.before_request
    def identify() -> None:
        given = flask.request.headers.get("X-Request-Id", "")
        flask.g.request_id = given if REQUEST_ID.fullmatch(given) else "req_" + secrets.token_hex(8)
        if digests and not _is_open(flask.request.path):
            _check_key(flask.request.headers.get("Authorization", ""), digests)

    @app.after_request
    def mark(response: flask.Response) -> flask.Response:
        _drain(settings.max_upload_bytes)
        response.headers["X-Request-Id"] = flask.g.get("request_id", "")
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def digest(key: str) -> str:
    """Return what is kept of a key: keys have 190 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Make a key."""
    return "lk_" + secrets.token_urlsafe(24)


def _drain(limit: int) -> None:
    """Read what an early refusal left of the body: the server drops the connection otherwise."""
    if (flask.request.content_length or 0) > limit:
        return
    stream = flask.request.environ["wsgi.input"]
    with contextlib.suppress(OSError, ParseException):  # the rest may be broken or never come
        while limit > 0 and (block := stream.read(min(limit, 65536))):
            limit -= len(block)


def _is_open(path: str) -> bool:
    return path in OPEN_PAGES or path.startswith(OPEN_PATHS)


def _check_key(header: str, digests: Sequence[str]) -> None:
    scheme, _, key = header.partition(" ")
    shown = digest(key.strip())
    known = [hmac.compare_digest(shown, one) for one in digests]
    if scheme.lower() != "bearer" or not any(known):
        raise Problem(
            401,
            "unauthorized",
            "send a valid key as `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": "Bearer"},
        )
