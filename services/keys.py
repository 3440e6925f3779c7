"""The keys that may call: what each may do, and how much at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCOPES = ("infer", "jobs", "files")
KEY = re.compile(
    r"(?P<digest>[0-9a-f]{64})(:(?P<scopes>[a-z+]*)(:(?P<most>[1-9][0-9]{0,8}))?)?", re.ASCII
)


@dataclass(frozen=True)
class Key:
    """A key that may call, known by its SHA-256; `max_active` is None where the setting counts."""

    digest: str = ""
    scopes: frozenset[str] = frozenset(SCOPES)
    max_active: int | None = None


def read_keys(text: str) -> tuple[Key, ...]:
    """Read `digest[:scope+scope[:max_active]]`, separated by commas.

    Raises:
        ValueError: one of them is not that, or is listed twice.
    """
    keys = tuple(_read(part.strip().lower()) for part in text.split(",") if part.strip())
    digests = [key.digest for key in keys]
    for digest in digests:
        if digests.count(digest) > 1:
            raise ValueError(f"a key is listed twice: {digest[:12]}...")
    return keys


def _read(text: str) -> Key:
    found = KEY.fullmatch(text)
    if found is None:
        raise ValueError("a key is digest[:scopes[:max_active]]")
    scopes = frozenset(found["scopes"].split("+") if found["scopes"] else SCOPES)
    if not scopes <= frozenset(SCOPES):
        raise ValueError(f"the scopes of a key are out of {', '.join(SCOPES)}")
    return Key(found["digest"], scopes, int(found["most"]) if found["most"] else None)
