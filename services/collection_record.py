"""What is known of a collection of a caller: its record, and the manifest of its pictures."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

COLLECTION_ID = re.compile(r"col_[0-9a-f]{32}")
COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Picture:
    """One picture; `width` and `height` in pixels as stored, `blob` names its bytes."""

    name: str
    sha256: str
    media_type: str
    width: int
    height: int
    size: int
    blob: str


@dataclass(frozen=True)
class CollectionRecord:
    """A collection as it stands; times are seconds since 1970.

    `manifest` names the list of its pictures among its bytes: each change writes a new one, so that
    who has read the record reads what it told of, or nothing.
    """

    id: str
    owner: str
    name: str
    created_at: float
    expires_at: float
    count: int
    size: int
    digest: str
    manifest: str


@dataclass(frozen=True)
class Manifest:
    """A collection's pictures at one time, by name: what a job is given."""

    id: str
    name: str
    digest: str
    pictures: tuple[Picture, ...]

    def pack(self) -> bytes:
        """Return it as bytes."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @staticmethod
    def unpack(data: bytes) -> Manifest:
        """Undo `pack`."""
        entries = json.loads(data)
        pictures = tuple(Picture(**picture) for picture in entries.pop("pictures"))
        return Manifest(pictures=pictures, **entries)


def new_collection_id() -> str:
    """Return an id of 128 random bits."""
    return "col_" + secrets.token_hex(16)


def parse_collection(fields: Mapping[bytes, bytes]) -> CollectionRecord:
    """Read a record from the fields of its hash."""
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    return CollectionRecord(
        id=texts["id"],
        owner=texts["owner"],
        name=texts["name"],
        created_at=int(texts["created_ms"]) / 1000,
        expires_at=int(texts["expires_ms"]) / 1000,
        count=int(texts["count"]),
        size=int(texts["size"]),
        digest=texts["digest"],
        manifest=texts["manifest"],
    )


def by_name(pictures: Iterable[Picture]) -> dict[str, Picture]:
    """Return pictures by name, in the order of their names."""
    return {picture.name: picture for picture in sorted(pictures, key=lambda one: one.name)}
