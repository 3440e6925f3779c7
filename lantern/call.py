"""A technique called with bytes and answered with bytes: the form in which calls travel."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lantern import registry
from lantern.artifact import JSON, NPZ, Artifact, NotAcceptable, Rendering, Result
from lantern.checkpoint import Checkpoints
from lantern.collections.library import Collections
from lantern.errors import LanternError
from lantern.image import Image
from lantern.progress import Progress, silent
from lantern.registry import Technique
from lantern.run import check_inputs, run, validate
from lantern.styles.library import StyleLibrary
from lantern.zoo import DEFAULT_MODEL, Zoo

ANYTHING = "*/*"


@dataclass(frozen=True)
class Call:
    """One call of a technique.

    `inputs` are encoded pictures by slot, `accept` media types by preference.
    """

    technique: str
    inputs: Mapping[str, bytes]
    params: Mapping[str, Any] = field(default_factory=dict)
    rendering: Mapping[str, Any] = field(default_factory=dict)
    model: str = DEFAULT_MODEL
    seed: int = 0
    accept: Sequence[str] = (ANYTHING,)

    def pack(self) -> tuple[str, bytes]:
        """Return a head of plain ASCII and a body; a single picture is not copied."""
        head = asdict(self) | {"inputs": [[slot, len(data)] for slot, data in self.inputs.items()]}
        pictures = list(self.inputs.values())
        body = pictures[0] if len(pictures) == 1 else b"".join(pictures)
        return json.dumps(head, separators=(",", ":")), body

    @staticmethod
    def unpack(head: str, body: bytes) -> Call:
        """Undo `pack`."""
        entries = json.loads(head)
        inputs, start = {}, 0
        for slot, length in entries.pop("inputs"):
            inputs[slot] = body[start : start + length]
            start += length
        return Call(inputs=inputs, **entries)


@dataclass(frozen=True)
class Answer:
    """The bytes of an answer and where its milliseconds went: decode, model, encode."""

    body: bytes
    media_type: str
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Studio:
    """What techniques run on: the networks and the styles of this process."""

    zoo: Zoo
    styles: StyleLibrary

    @staticmethod
    def open(styles: Path, *, downloads: bool) -> Studio:
        """Make the studio of this process, on its GPU where it has one."""
        # numbers too small to matter would slow every operation they pass through
        torch.set_flush_denormal(True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Studio(Zoo(downloads=downloads, device=device), StyleLibrary(styles, device=device))

    def perform(self, call: Call) -> Answer:
        """Decode, run and encode.

        Raises:
            LanternError: the call is wrong in any way.
        """
        decoded = time.perf_counter()
        images = decode(call.inputs)
        started = time.perf_counter()
        result = self.run(call, images)
        computed = time.perf_counter()
        media_type = choose(result.principal, call.accept)
        body = encode(result, media_type, validate(Rendering, call.rendering))
        ended = time.perf_counter()
        marks = {
            "decode": started - decoded,
            "model": computed - started,
            "encode": ended - computed,
        }
        return Answer(body, media_type, {name: round(s * 1e3, 2) for name, s in marks.items()})

    def run(
        self,
        call: Call,
        images: Mapping[str, Image],
        progress: Progress = silent,
        checkpoints: Checkpoints | None = None,
        collections: Collections | None = None,
    ) -> Result:
        """Run the call on decoded pictures; `collections` are the built-in ones, if not others."""
        technique = registry.find(call.technique)
        return run(
            call.technique,
            images,
            call.params,
            model=self.zoo.load(call.model) if technique.takes_model else None,
            styles=self.styles,
            progress=progress,
            seed=call.seed,
            checkpoints=checkpoints,
            collections=collections,
        )


def decode(inputs: Mapping[str, bytes]) -> dict[str, Image]:
    """Decode every input.

    Raises:
        BadImage: one is undecodable or too large; the pointer says which.
    """
    images = {}
    for slot, data in inputs.items():
        with _pointing_at(slot):
            images[slot] = Image.decode(data)
    return images


def check(technique: Technique, inputs: Mapping[str, bytes], *, thoroughly: bool) -> None:
    """Check that the inputs fit, by their headers or, thoroughly, by decoding them.

    Raises:
        MissingInput: a slot is empty or unknown.
        BadImage: a picture is undecodable or outside the limits; the pointer says which.
    """
    check_inputs(technique, inputs)
    for slot, data in inputs.items():
        with _pointing_at(slot):
            (Image.check if thoroughly else Image.probe)(data)


@contextmanager
def _pointing_at(slot: str) -> Iterator[None]:
    """Point picture errors at the input slot they come from."""
    try:
        yield
    except LanternError as error:
        error.pointer = error.pointer or f"/inputs/{slot}"
        raise


def choose(artifact: Artifact, accept: Sequence[str]) -> str:
    """Choose the form of the answer: the first acceptable one that exists.

    Raises:
        NotAcceptable: none of the acceptable forms exists.
    """
    for wanted in accept:
        if wanted in (JSON, NPZ, *artifact.media_types):
            return wanted
        if wanted == ANYTHING or wanted == artifact.media_types[0].split("/")[0] + "/*":
            return artifact.media_types[0]
    forms = ", ".join(dict.fromkeys([*artifact.media_types, JSON, NPZ]))
    raise NotAcceptable(f"{artifact.name} is a {artifact.kind}; it can be had as {forms}")


def encode(result: Result, media_type: str, rendering: Rendering) -> bytes:
    """Return the principal artifact, the whole document or the raw arrays."""
    if media_type == NPZ:
        return result.npz()
    if media_type == JSON:
        return json.dumps(document(result, rendering)).encode()
    return result.principal.encode(media_type, rendering)


def document(result: Result, rendering: Rendering) -> dict[str, Any]:
    """Return the Result document, pictures as data URLs."""
    return {
        "technique": result.technique,
        "params": result.params.model_dump(mode="json"),
        "seed": result.seed,
        "facts": dict(result.facts),
        "artifacts": [_inline(artifact, rendering) for artifact in result.artifacts],
    }


def _inline(artifact: Artifact, rendering: Rendering) -> dict[str, Any]:
    media_type = artifact.media_types[0]
    body = artifact.encode(media_type, rendering)
    data: Any
    if media_type == JSON:
        data = json.loads(body)
    else:
        data = f"data:{media_type};base64,{base64.b64encode(body).decode()}"
    return {"name": artifact.name, "kind": artifact.kind, "media_type": media_type, "data": data}
