"""Collections over HTTP: sets of pictures that techniques read."""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from typing import Any

import flask

from lantern.artifact import JSON
from lantern.collections.library import BUILT_IN
from lantern.errors import InvalidParameter
from services.collection_record import (
    COLLECTION_ID,
    COLLECTION_NAME,
    CollectionRecord,
    Manifest,
    Picture,
)
from services.gateway import built_in
from services.gateway.context import current
from services.gateway.documents import moment
from services.gateway.gathering import gather
from services.gateway.guard import owner
from services.gateway.problems import Problem
from services.gateway.query import whole_number
from services.gateway.reading import check_encoding, whole_body

routes = flask.Blueprint("collections", __name__)
MOST_PER_PAGE = 200


@routes.post("/v1/collections")
def create_collection() -> flask.Response:
    """Make an empty collection."""
    name = _name_given()
    if name in BUILT_IN:
        raise Problem(409, "name-taken", "a built-in collection has that name; choose another")
    current().stores.blobs.require_room()
    record = current().stores.collections.create(owner(), name)
    response = flask.jsonify(_document(record))
    response.status_code = 201
    response.headers["Location"] = f"/v1/collections/{record.id}"
    return response


@routes.get("/v1/collections")
def list_collections() -> flask.Response:
    """List your collections and the built-in ones."""
    records = [
        *current().stores.collections.every(owner()),
        *map(built_in.record_of, BUILT_IN),
    ]
    return flask.jsonify({"collections": [_document(record) for record in records]})


@routes.get("/v1/collections/<name>")
def get_collection(name: str) -> flask.Response:
    """Describe a collection and list its pictures, by name."""
    limit = whole_number("limit", 50, 1, MOST_PER_PAGE)
    after = _position(flask.request.args.get("cursor"))
    record = _find(name)
    pictures = [one for one in _manifest(record).pictures if after is None or one.name > after]
    page = pictures[:limit]
    listed = {
        "pictures": [_listed(record, picture) for picture in page],
        "next": _cursor(page[-1].name) if len(pictures) > limit else None,
    }
    return flask.jsonify(_document(record) | listed)


@routes.delete("/v1/collections/<name>")
def delete_collection(name: str) -> flask.Response:
    """Forget a collection and its pictures; jobs that still read it fail."""
    record = _find_own(name)
    if not current().stores.collections.delete(record):
        raise _missing()
    return flask.Response(status=204)


@routes.post("/v1/collections/<name>/images")
def add_images(name: str) -> flask.Response:
    """Put pictures into a collection: a zip or tar archive, or the files of a form."""
    record, who = _find_own(name), owner()
    uploads = current().uploads
    if not uploads.take(who):
        raise Problem(
            429, "too-many-uploads",
            f"too many uploads are under way, of {uploads.bounds}; send one after the other",
        )  # fmt: skip
    try:
        uploaded, told = gather(record.id)
    finally:
        uploads.give_back(who)
    response = flask.jsonify(_document(uploaded.record) | told)
    response.status_code = 201 if uploaded.added or uploaded.replaced else 200
    return response


@routes.get("/v1/collections/<name>/images/<path:picture>")
def get_image(name: str, picture: str) -> flask.Response:
    """Return a picture of a collection."""
    record = _find(name)
    found = next((one for one in _manifest(record).pictures if one.name == picture), None)
    data = _read(record, found) if found else None
    if found is None or data is None:
        raise _missing_picture()
    response = flask.Response(data, content_type=found.media_type)
    response.set_etag(found.sha256[:32])
    response.make_conditional(flask.request)
    return response


@routes.delete("/v1/collections/<name>/images/<path:picture>")
def delete_image(name: str, picture: str) -> flask.Response:
    """Take a picture out of a collection."""
    if not current().stores.collections.remove(_find_own(name), picture):
        raise _missing_picture()
    return flask.Response(status=204)


def _name_given() -> str:
    check_encoding()
    if flask.request.mimetype != JSON:
        raise Problem(415, "unsupported-media-type", 'send {"name": "..."} as application/json')
    try:
        body = json.loads(whole_body())
    except (ValueError, RecursionError) as error:
        raise Problem(400, "malformed", "the body is not valid JSON") from error
    if not isinstance(body, dict) or set(body) != {"name"}:
        raise Problem(422, "unknown-field", 'the body is an object with one field: {"name": "..."}')
    name = body["name"]
    if not isinstance(name, str) or not COLLECTION_NAME.fullmatch(name):
        raise InvalidParameter(
            "a name has 1 to 64 of the characters A-Z a-z 0-9 . _ - and begins with a letter or "
            "digit",
            pointer="/name",
        )
    if COLLECTION_ID.fullmatch(name):
        raise InvalidParameter("a name may not look like an id", pointer="/name")
    return name


def _find(name: str) -> CollectionRecord:
    if name in BUILT_IN:
        return built_in.record_of(name)
    record = current().stores.collections.find(owner(), name)
    if record is None:
        raise _missing()
    return record


def _find_own(name: str) -> CollectionRecord:
    record = _find(name)
    if record.owner == built_in.NOBODYS:
        raise Problem(409, "built-in", "a built-in collection stays as it is; make one of your own")
    return record


def _manifest(record: CollectionRecord) -> Manifest:
    if record.owner == built_in.NOBODYS:
        return built_in.manifest_of(record.name)
    return current().stores.collections.manifest(record)


def _read(record: CollectionRecord, picture: Picture) -> bytes | None:
    if record.owner == built_in.NOBODYS:
        return built_in.read(record.name, picture)
    return current().stores.collections.read(record.id, picture)


def _document(record: CollectionRecord) -> dict[str, Any]:
    base = f"/v1/collections/{record.id}"
    return {
        "id": record.id,
        "name": record.name,
        "built_in": record.owner == built_in.NOBODYS,
        "count": record.count,
        "bytes": record.size,
        "digest": record.digest,
        "created_at": moment(record.created_at or None),
        "expires_at": moment(record.expires_at or None),
        "links": {"self": base, "images": f"{base}/images"},
    }


def _listed(record: CollectionRecord, picture: Picture) -> dict[str, Any]:
    return {
        "name": picture.name,
        "sha256": picture.sha256,
        "media_type": picture.media_type,
        "width": picture.width,
        "height": picture.height,
        "bytes": picture.size,
        "url": f"/v1/collections/{record.id}/images/{urllib.parse.quote(picture.name)}",
    }


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _position(cursor: str | None) -> str | None:
    if not cursor:
        return None
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError) as error:
        raise Problem(400, "malformed", "the cursor is not one this service gave out") from error


def _missing() -> Problem:
    return Problem(404, "not-found", "there is no such collection, or it has expired")


def _missing_picture() -> Problem:
    return Problem(404, "not-found", "the collection has no picture of that name")
