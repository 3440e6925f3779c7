"""Pictures for a collection out of a request: a zip or tar archive, or the parts of a form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import flask
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio import multipart

from lantern.errors import BadImage
from lantern.image import LIMITS, Image
from services.archives.names import Unfit, is_ignored, picture_name
from services.archives.parts import Bounds, Member, Skipped
from services.archives.unpack import unpack
from services.collection_upload import Upload, Uploaded
from services.gateway.context import DECODING, current
from services.gateway.problems import Problem
from services.gateway.reading import check_encoding, whole_body

FORM = "multipart/form-data"
ARCHIVES = (
    *("application/zip", "application/x-zip-compressed", "application/x-tar"),
    *("application/gzip", "application/x-gzip", "application/octet-stream", ""),
)
MOST_MEMBERS = 10_000
MOST_PARTS = 1000
LONGEST_PART_HEAD = 1024 * 1024
PIECE = 64 * 1024
# What comes out of an archive, by what it may have: pictures hardly shrink when they are packed.
EXPANSION = 2
# They take about 20 s to decode.
MOST_PIXELS = 2**29
MOST_LISTED = 100
MOST_REASONS = 8


@dataclass
class Gathering:
    """Pictures on their way from a request into an upload, and what is left behind."""

    upload: Upload
    pixels: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, found: Member | Skipped) -> None:
        """Put a picture into the upload, after decoding it once; note what is none.

        Raises:
            Problem: there are too many pixels.
            CollectionFull, StorageFull: there is no room.
        """
        if isinstance(found, Skipped):
            self._skip(found.name, found.reason)
        elif self.upload.has(found.name):
            self._skip(found.name, "another one of this name came before it")
        else:
            self._check_and_put(found)

    def _check_and_put(self, found: Member) -> None:
        try:
            header = Image.probe(found.data)
            self.pixels += header.width * header.height
            if self.pixels > MOST_PIXELS:
                raise Problem(
                    413, "too-many-pixels",
                    f"an upload may have {MOST_PIXELS} pixels; send the pictures in several",
                )  # fmt: skip
            with DECODING:
                Image.check(found.data)
        except BadImage as error:
            self._skip(found.name, error.detail)
            return
        current().stores.blobs.require_room()
        self.upload.put(
            found.name, found.data, media_type=header.media_type,
            width=header.width, height=header.height,
        )  # fmt: skip

    def _skip(self, name: str, reason: str) -> None:
        """Note what is left behind; of very many, only how many there are."""
        self.reasons[reason] += 1
        if len(self.skipped) < MOST_LISTED:
            shown = "".join(letter if letter.isprintable() else "?" for letter in name[:255])
            self.skipped.append({"name": shown, "reason": reason})

    def finish(self) -> tuple[Uploaded, dict[str, Any]]:
        """Let the collection have the pictures; return what came of it, and what is told of it.

        Raises:
            Problem: there was no picture at all.
        """
        if not self.upload.count:
            most = self.reasons.most_common(MOST_REASONS)
            raise Problem(
                422, "no-pictures",
                "there is no picture in it; send JPEG, PNG, WebP or GIF files of up to "
                f"{LIMITS.max_bytes} bytes and {LIMITS.max_pixels} pixels",
                errors=[{"pointer": "", "detail": f"{n} times: {why}"} for why, n in most],
            )  # fmt: skip
        uploaded = self.upload.commit()
        return uploaded, {
            "added": uploaded.added,
            "replaced": uploaded.replaced,
            "unchanged": uploaded.unchanged,
            "skipped_count": self.reasons.total(),
            "skipped": self.skipped,
        }


def gather(collection_id: str) -> tuple[Uploaded, dict[str, Any]]:
    """Put the pictures of this request into a collection, all of them or none.

    Raises:
        Problem, LanternError: the request is wrong, or there are no pictures in it.
        CollectionFull, CollectionGone, StorageFull: the collection cannot take them.
    """
    limit = current().settings.max_collection_upload_bytes
    flask.request.max_content_length = limit
    current().stores.blobs.require_room()
    with Upload(current().stores.collections, collection_id) as upload:
        gathering = Gathering(upload)
        for found in _found(limit):
            gathering.take(found)
        return gathering.finish()


def _found(limit: int) -> Iterator[Member | Skipped]:
    kind = flask.request.mimetype
    check_encoding()
    if kind not in (FORM, *ARCHIVES):
        raise Problem(
            415, "unsupported-media-type",
            "send a zip, tar or tar.gz archive as the body, or files as multipart/form-data",
        )  # fmt: skip
    body = whole_body()
    if not body:
        raise Problem(400, "empty-body", "the body is empty; send pictures")
    if kind == FORM:
        return _parts(body, flask.request.mimetype_params.get("boundary", ""))
    bounds = Bounds(MOST_MEMBERS, LIMITS.max_bytes, EXPANSION * limit)
    return unpack(body, bounds)


def _parts(body: bytes, boundary: str) -> Iterator[Member | Skipped]:
    """Go through the files of a form, one in memory at a time.

    Raises:
        Problem: the form is malformed or has too many parts, or something in it is no file.
    """
    if not boundary:
        raise Problem(400, "malformed", "the multipart body has no boundary")
    decoder = multipart.MultipartDecoder(
        boundary.encode("latin-1", "replace"), LONGEST_PART_HEAD, max_parts=MOST_PARTS
    )
    name, data = "", bytearray()
    try:
        for event in _events(decoder, body):
            if isinstance(event, multipart.Field):
                raise Problem(
                    422, "unknown-field", "only files are taken; give every part a filename"
                )
            if isinstance(event, multipart.File):
                name, data = event.filename, bytearray()
            elif isinstance(event, multipart.Data):
                # a picture that is too large needs no more than this to be found so
                data += event.data[: LIMITS.max_bytes + 1 - len(data)]
                if not event.more_data and not is_ignored(name):
                    yield _member(name, bytes(data))
    except RequestEntityTooLarge as error:
        raise Problem(
            413, "form-too-large",
            f"a form may have {MOST_PARTS} parts, with headers of at most {LONGEST_PART_HEAD} "
            "bytes; send the pictures in several, or as an archive",
        ) from error  # fmt: skip
    except ValueError as error:
        raise Problem(400, "malformed", "the multipart body is malformed") from error


def _events(decoder: multipart.MultipartDecoder, body: bytes) -> Iterator[multipart.Event]:
    for at in range(0, len(body), PIECE):
        decoder.receive_data(body[at : at + PIECE])
        while not isinstance(
            event := decoder.next_event(), multipart.NeedData | multipart.Epilogue
        ):
            yield event
    decoder.receive_data(None)
    decoder.next_event()


def _member(name: str, data: bytes) -> Member | Skipped:
    if len(data) > LIMITS.max_bytes:
        return Skipped(name, f"it has more than {LIMITS.max_bytes} bytes")
    try:
        return Member(picture_name(name), data)
    except Unfit as error:
        return Skipped(name, str(error))
