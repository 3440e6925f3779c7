"""Which weights answer a call, so that no answer of replaced ones is given again."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lantern.call import Call
from lantern.records import DEFAULT_MODEL, RECORDS
from lantern.registry import Technique
from lantern.stamp import stamp
from lantern.styles.library import SHARED, Style
from services.gateway.context import current


def weights_of(technique: Technique, call: Call, styles: Sequence[Style]) -> str:
    """Name the weights of the network and of the styles that a call names; "" where it has none.

    The name changes with a file's size or time, so that no file is read.
    """
    said: list[Any] = []
    # the id of a network that was brought holds its weights already
    if technique.takes_model and call.model in RECORDS:
        said.append(_network(call.model))
    if "styles" in technique.injected.values():
        # what is said of the styles is in their version, and a caller's own never change
        folder = current().styles.folder
        said += [current().styles.version(), _as_it_is(folder / SHARED), _network(DEFAULT_MODEL)]
        said += [[one.name, _as_it_is(folder / one.file) if one.file else ()] for one in styles]
    if not said:
        return ""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _network(name: str) -> tuple[int, ...]:
    return _as_it_is(_place(RECORDS[name].weights_path))


@functools.lru_cache(maxsize=64)
def _place(found_by: Callable[[], Path]) -> Path:
    """Find a file once: to find it takes longer than to look at it."""
    return found_by()


def _as_it_is(path: Path) -> tuple[int, ...]:
    """Look at a file; where it lies is not told, for that differs between machines."""
    return stamp(path)[:2]
