"""The calls of the load. Each is the same every time, so that its result has to be, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lantern import samples
from tests.e2e.pictures import shrunk


@dataclass(frozen=True)
class Kind:
    """One call: a technique, the pictures in its slots, and how often it is chosen."""

    name: str
    technique: str
    pictures: Mapping[str, bytes]
    params: Mapping[str, Any] = field(default_factory=dict)
    weight: int = 1


def job_kinds() -> list[Kind]:
    """Return what is run as a job: 2 to 30 seconds of two busy cores each."""
    cat, coffee = _picture("cat"), _picture("coffee")
    one, two = {"image": cat}, {"image": cat, "style": coffee}
    style = {"size": 96, "scales": 1, "seed": 3}
    return [
        Kind("dream", "deep-dream", one, {"steps": 200, "octaves": 4, "size": 160, "seed": 1}, 4),
        Kind("short dream", "deep-dream", one, {"steps": 40, "octaves": 2, "size": 96, "seed": 2}),
        Kind("adam", "style-transfer", two, {"steps": 120, **style}, 2),
        Kind("l-bfgs", "style-transfer", two, {"steps": 30, "optimizer": "l-bfgs", **style}, 2),
        *call_kinds(),
    ]


def call_kinds() -> list[Kind]:
    """Return what is asked interactively, and now and then as a job."""
    cat = {"image": _picture("cat")}
    return [
        Kind("fast-style", "fast-style", cat, {"size": 128}),
        Kind("classify", "classify", cat),
        Kind("grad-cam", "grad-cam", cat, {"target": 281}),
    ]


def _picture(name: str) -> bytes:
    return shrunk(samples.photographs()[name].read_bytes(), 160)
