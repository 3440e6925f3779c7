"""Uploads over HTTP: send a picture once, use it in many calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import flask

from lantern.image import Image
from services.files import File
from services.gateway.context import DECODING, current
from services.gateway.documents import moment
from services.gateway.guard import owner
from services.gateway.problems import Problem
from services.gateway.reading import check_encoding, limits_of_forms, whole_body

routes = flask.Blueprint("files", __name__)


@routes.post("/v1/files")
def upload() -> flask.Response:
    """Store a picture; the same bytes get the same id."""
    check_encoding()
    if flask.request.mimetype == "multipart/form-data":
        with limits_of_forms():
            parts = [part for _, part in flask.request.files.items(multi=True)]
        if len(parts) != 1:
            raise Problem(422, "repeated-input", "send exactly one file, in a part with a filename")
        data = parts[0].read()
    else:
        data = whole_body()
    if not data:
        raise Problem(400, "empty-body", "the body is empty; send a picture's bytes")
    with DECODING:
        header = Image.check(data)
    current().stores.blobs.require_room()
    file = current().stores.files.put(
        owner(), data, header.media_type, width=header.width, height=header.height
    )
    response = flask.jsonify(_document(file))
    response.status_code = 201
    response.headers["Location"] = f"/v1/files/{file.id}"
    return response


@routes.get("/v1/files/<name>")
def download(name: str) -> flask.Response:
    """Return a picture."""
    files = current().stores.files
    file, data = files.facts(owner(), name), files.read(owner(), name)
    if file is None or data is None:
        raise _missing()
    response = flask.Response(data, content_type=file.media_type)
    response.set_etag(name.removeprefix("file_")[:32])
    response.expires = datetime.fromtimestamp(file.expires_at, UTC)
    response.cache_control.private = True
    response.make_conditional(flask.request)
    return response


@routes.delete("/v1/files/<name>")
def delete(name: str) -> flask.Response:
    """Forget a picture."""
    if not current().stores.files.delete(owner(), name):
        raise _missing()
    return flask.Response(status=204)


def _missing() -> Problem:
    return Problem(404, "not-found", "there is no such file, or it has expired; upload it again")


def _document(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "sha256": file.id.removeprefix("file_"),
        "media_type": file.media_type,
        "width": file.width,
        "height": file.height,
        "bytes": file.size,
        "expires_at": moment(file.expires_at),
    }
