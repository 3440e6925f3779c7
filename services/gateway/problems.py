"""Every error as an RFC 9457 problem document."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import flask
import redis
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from lantern.errors import InvalidParameters, LanternError
from services.backend import EngineFailed, Refused, Unavailable
from services.blobs import FilesAway, StorageFull, is_full
from services.collection_store import (
    CollectionBusy,
    CollectionFull,
    CollectionGone,
    NameTaken,
    TooManyCollections,
)
from services.jobs import IdempotencyConflict, QueueFull, QuotaReached
from services.kept import TooMuchKept

log = logging.getLogger("lantern.gateway")

# Everything a caller can mend in the request's content is 422; these codes mean another status.
STATUS = {
    "unknown-technique": 404,
    "not-acceptable": 406,
    "malformed": 400,
    "empty-body": 400,
    "unsupported-media-type": 415,
    "archive-too-large": 413,
    "damaged-style": 503,
    "invalid-header": 400,
}
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = {429: "5", 503: "2", 507: "60"}


class Problem(Exception):
    """An answer other than success; `code` names it for good, `detail` says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def document(problem: Problem, request_id: str) -> dict[str, Any]:
    """Return the problem document."""
    body: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": problem.code.replace("-", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "request_id": request_id,
    }
    return body | ({"errors": [dict(error) for error in problem.errors]} if problem.errors else {})


def answer(problem: Problem) -> flask.Response:
    """Answer with the problem document."""
    response = flask.jsonify(document(problem, flask.g.get("request_id", "")))
    response.status_code = problem.status
    response.content_type = MEDIA_TYPE
    if problem.status in RETRY_AFTER_S:
        response.headers["Retry-After"] = RETRY_AFTER_S[problem.status]
    response.headers.update(problem.headers)
    return response


def from_lantern(error: LanternError) -> Problem:
    """Translate a library error; its details are written for callers."""
    status = STATUS.get(error.code, 422)
    if isinstance(error, Refused):
        return Problem(status, error.code, error.detail, errors=error.problems)
    parts = error.problems if isinstance(error, InvalidParameters) else (error,)
    errors = [{"pointer": p.pointer, "detail": p.detail} for p in parts if p.pointer]
    return Problem(status, error.code, error.detail, errors=errors)


def too_large(most_bytes: int | None) -> Problem:
    """Say that a request has more bytes than are taken."""
    return Problem(
        413, "too-large",
        f"the request may have at most {most_bytes} bytes; send fewer or smaller pictures, or "
        "weights in half precision",
    )  # fmt: skip


def translate(error: Exception) -> Problem:
    """Turn any exception into the problem a caller sees; what is ours is logged."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, LanternError):
        return from_lantern(error)
    if isinstance(error, RequestEntityTooLarge):
        return too_large(flask.request.max_content_length)
    if isinstance(error, HTTPException):
        return _from_http(error)
    for kind, (status, code) in _LIMITS.items():
        if isinstance(error, kind):
            return Problem(status, code, str(error))
    if isinstance(error, redis.RedisError) and is_full(error):
        return _OURS[StorageFull]
    for kind, problem in _OURS.items():
        if isinstance(error, kind):
            if isinstance(error, FilesAway):
                log.error("the file store fails: %r", error.__cause__)
            return problem
    log.exception("a request failed")
    return Problem(500, "internal", "the service failed; the fault is not yours")


def _from_http(error: HTTPException) -> Problem:
    code = (error.name or "error").lower().replace(" ", "-")
    headers = {
        name: value
        for name, value in error.get_headers()
        if name in ("Allow", "Retry-After", "Location")
    }
    details = {
        404: "there is nothing here; see /docs for what there is",
        405: f"the method is not allowed here; allowed: {headers.get('Allow', 'see /docs')}",
    }
    status = error.code or 500
    usual = "the request cannot be understood; see /docs for how it is written"
    return Problem(status, code, details.get(status, usual), headers=headers)


# What says itself how much may be, and what to do.
_LIMITS: dict[type[Exception], tuple[int, str]] = {
    CollectionFull: (413, "collection-full"),
    QueueFull: (429, "queue-full"),
    QuotaReached: (429, "quota"),
    TooManyCollections: (409, "too-many-collections"),
    TooMuchKept: (507, "too-much-kept"),
}
_OURS: dict[type[Exception], Problem] = {
    Unavailable: Problem(
        503, "unavailable", "the engine cannot take the call now; try again shortly"
    ),
    EngineFailed: Problem(500, "internal", "the technique failed; the fault is not yours"),
    StorageFull: Problem(507, "storage-full", "there is no room left; try again later"),
    FilesAway: Problem(
        503, "storage-away", "the store of files does not answer; try again shortly"
    ),
    NameTaken: Problem(
        409, "name-taken", "there is a collection of that name; use it, or choose another name"
    ),
    CollectionBusy: Problem(503, "busy", "too many change the collection now; try again shortly"),
    CollectionGone: Problem(
        410, "gone", "the collection was deleted, or its pictures are lost; make it anew"
    ),
    IdempotencyConflict: Problem(
        422,
        "idempotency-conflict",
        "this Idempotency-Key was used for another request; use a new one",
    ),
    redis.RedisError: Problem(
        503, "unavailable", "the job store does not answer; try again shortly"
    ),
}


def install(app: flask.Flask) -> None:
    """Make every error of the application a problem document."""
    app.register_error_handler(Exception, lambda error: answer(translate(error)))
