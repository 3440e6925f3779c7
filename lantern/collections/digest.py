"""The hash of a collection's contents; light, because records are kept without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def digest_of(pictures: Iterable[tuple[str, str]]) -> str:
    """Return the SHA-256 of names and the SHA-256 of each picture's bytes, in any order.

    The same pictures under the same names have the same digest, whoever keeps them.
    """
    digest = hashlib.sha256()
    for name, sha256 in sorted(pictures):
        digest.update(json.dumps([name, sha256]).encode() + b"\n")
    return digest.hexdigest()
