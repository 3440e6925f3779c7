"""A technique called with bytes and answered with bytes: the form in which calls travel."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from lantern import registry
from lantern.animation import check_length
from lantern.artifact import JSON, NPZ, Artifact, NotAcceptable, Rendering, Result
from lantern.checkpoint import Checkpoints
from lantern.collections.library import Collections
from lantern.decoders.library import Decoders
from lantern.errors import BadImage, LanternError, check_size
from lantern.image import LIMITS, Header, Image
from lantern.networks import Networks
from lantern.progress import Progress, silent
from lantern.records import DEFAULT_MODEL
from lantern.registry import Technique
from lantern.run import check_inputs, run, validate
from lantern.styles.batches import Batches
from lantern.styles.engine import engine_for
from lantern.styles.library import StyleLibrary
from lantern.styles.own import OwnStyles
from lantern.zoo import Zoo

ANYTHING = "*/*"
# What all pictures of a call may have together; each by itself keeps to `LIMITS`.
MOST_BYTES, MOST_PIXELS = 2 * LIMITS.max_bytes, 2 * LIMITS.max_pixels
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One call of a technique.

    `inputs` are encoded pictures; those of a slot are called `style`, `style-2`, `style-3` and so
    on, in their order. `accept` are media types by preference.
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
        head = vars(self) | {"inputs": [[slot, len(data)] for slot, data in self.inputs.items()]}
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
    """What techniques run on: the networks and the styles of this process.

    Where there are `batches`, they gather the passes of the styles' networks.
    """

    zoo: Zoo
    styles: StyleLibrary
    batches: Batches | None = None

    @staticmethod
    def open(styles: Path, models: Path | None = None, *, downloads: bool) -> Studio:
        """Make the studio of this process, on its GPU where it has one.

        `models` is the folder of networks and styles of callers' own.
        """
        # numbers too small to matter would slow every operation they pass through
        torch.set_flush_denormal(True)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        zoo = Zoo(downloads=downloads, device=device, find=Networks(models).record)
        batches = Batches() if device == "cuda" else None  # which gain nothing on a CPU
        return Studio(
            zoo,
            StyleLibrary(
                styles,
                own=OwnStyles(models),
                device=device,
                engine=batches.engine if batches else engine_for,
                looker=lambda: zoo.load(DEFAULT_MODEL),
            ),
            batches,
        )

    def each(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Do several things, side by side where that gains time; return what each returns."""
        return self.batches.each(calls) if self.batches else [call() for call in calls]

    def perform(self, call: Call, *, most_bytes: float = math.inf) -> Answer:
        """Decode, run and encode.

        Raises:
            AnswerTooLarge: the answer has more than so many bytes.
            LanternError: the call is wrong in any way.
        """
        began = time.perf_counter()
        images = decoded(call)
        started = time.perf_counter()
        result = self.run(call, images)
        computed = time.perf_counter()
        media_type = choose(result.principal, call.accept)
        body = encode(result, media_type, validate(Rendering, call.rendering), most_bytes)
        check_size(len(body), most_bytes)
        ended = time.perf_counter()
        marks = {
            "decode": started - began,
            "model": computed - started,
            "encode": ended - computed,
        }
        return Answer(body, media_type, {name: round(s * 1e3, 2) for name, s in marks.items()})

    def run(
        self,
        call: Call,
        images: Mapping[str, Image | Sequence[Image]],
        progress: Progress = silent,
        checkpoints: Checkpoints | None = None,
        collections: Collections | None = None,
        decoders: Decoders | None = None,
    ) -> Result:
        """Run the call on decoded pictures.

        Without `collections` there are the built-in ones, without `decoders` there are none.
        """
        technique = registry.find(call.technique)
        with self.batches.turn() if self.batches else contextlib.nullcontext():
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
                decoders=decoders,
            )


def number(pictures: Mapping[str, Sequence[bytes]]) -> dict[str, bytes]:
    """Give the pictures of each slot the names they travel under: `style`, `style-2`, ..."""
    return {
        slot if place == 0 else f"{slot}-{place + 1}": data
        for slot, several in pictures.items()
        for place, data in enumerate(several)
    }


def by_slot(inputs: Mapping[str, bytes]) -> dict[str, list[bytes]]:
    """Undo `number`."""
    slots: dict[str, list[bytes]] = {}
    for name, data in inputs.items():
        slots.setdefault(name.partition("-")[0], []).append(data)
    return slots


def decoded(call: Call) -> dict[str, tuple[Image, ...]]:
    """Decode the pictures of a call, no larger than its technique will use them.

    Raises:
        LanternError: as `decode`, or there is no such technique.
    """
    technique = registry.find(call.technique)
    if not technique.shrinks_to:
        return decode(call.inputs)
    usual = technique.params_type.model_fields[technique.shrinks_to].default
    size = call.params.get(technique.shrinks_to, usual)
    needed = size if isinstance(size, int) else None  # else it will be refused
    return decode(call.inputs, {next(iter(technique.inputs)): needed})


def decode(
    inputs: Mapping[str, bytes], needed: Mapping[str, int | None] | None = None
) -> dict[str, tuple[Image, ...]]:
    """Decode every input: the pictures of each slot, in their order.

    `needed` is the longest side (px) that will be used of a slot's pictures.

    Raises:
        BadImage: one is undecodable or too large, or all together are; the pointer says which.
    """
    slots = by_slot(inputs)
    _check_together(slots)
    sides = needed or {}
    return {
        slot: tuple(_each(slot, functools.partial(Image.decode, needed=sides.get(slot)), several))
        for slot, several in slots.items()
    }


def check(technique: Technique, inputs: Mapping[str, bytes], *, thoroughly: bool) -> bool:
    """Check that the inputs fit, by their headers or, thoroughly, by decoding them.

    Return whether every frame of an animation will be worked on, which may take its time.

    Raises:
        MissingInput: a slot is empty, too full or unknown.
        BadImage: a picture is undecodable or outside the limits; the pointer says which.
    """
    slots = by_slot(inputs)
    check_inputs(technique, slots)
    headers = _check_together(slots, _probe_film if technique.animates else Image.probe)
    if thoroughly:
        for slot, several in slots.items():
            list(_each(slot, Image.check, several))
    return technique.animates and any(header.frames > 1 for header in headers)


def _probe_film(data: bytes) -> Header:
    """Read the header of a picture all frames of which will be worked on."""
    header = Image.probe(data)
    check_length(header.frames, header.width, header.height)
    return header


def check_bytes(pictures: Iterable[bytes]) -> None:
    """Check the size of all files of a call together.

    Raises:
        BadImage: they are too large.
    """
    found = sum(map(len, pictures))
    if found > MOST_BYTES:
        raise BadImage(
            f"the pictures have {found} bytes together; at most {MOST_BYTES} are taken: "
            "shrink them, or send fewer",
            code="image-too-large", pointer="/inputs",
        )  # fmt: skip


def _check_together(
    slots: Mapping[str, Sequence[bytes]], probe: Callable[[bytes], Header] = Image.probe
) -> list[Header]:
    """Check each picture's header, and what all of them will need; return the headers."""
    check_bytes(data for several in slots.values() for data in several)
    headers = [header for slot, several in slots.items() for header in _each(slot, probe, several)]
    found = sum(header.width * header.height for header in headers)
    if found > MOST_PIXELS:
        raise BadImage(
            f"the pictures have {found} pixels together; at most {MOST_PIXELS} are taken: "
            "shrink them, or send fewer",
            code="image-too-large", pointer="/inputs",
        )  # fmt: skip
    return headers


def _each(slot: str, action: Callable[[bytes], T], several: Sequence[bytes]) -> Iterator[T]:
    """Do something with every picture of a slot; point picture errors at the one it is."""
    for place, data in enumerate(several):
        try:
            yield action(data)
        except LanternError as error:
            where = f"/inputs/{slot}/{place}" if len(several) > 1 else f"/inputs/{slot}"
            error.pointer = error.pointer or where
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
    raise NotAcceptable(
        f"there is no such form of the {artifact.kind} {artifact.name}; it can be had as {forms}"
    )


def encode(
    result: Result, media_type: str, rendering: Rendering, most_bytes: float = math.inf
) -> bytes:
    """Return the principal artifact, the whole document or the raw arrays.

    Raises:
        AnswerTooLarge: there are more than so many bytes of arrays.
    """
    if media_type == NPZ:
        return result.npz(most_bytes)
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
