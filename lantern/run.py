"""The one door to every technique."""

from __future__ import annotations

import functools
import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
import torch

import lantern
from lantern import registry
from lantern.artifact import Artifact, Facts, Result
from lantern.checkpoint import Checkpoints
from lantern.collections.library import Collections
from lantern.decoders.library import Decoders
from lantern.errors import InvalidParameter, InvalidParameters, MissingInput, NotFinite
from lantern.image import Image
from lantern.judging import Judging
from lantern.params import Params
from lantern.progress import Onward, Progress, silent
from lantern.registry import Slot, Technique
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from lantern.work import Sizes

# How many wrong values one answer lists.
MOST_PROBLEMS = 16
# How many parameters, or entries of one, are looked at: checking costs time for each.
MOST_VALUES = 1024


def run(
    name: str,
    images: Mapping[str, Image | Sequence[Image]],
    params: Params | Mapping[str, Any] | None = None,
    *,
    model: VisionModel | None = None,
    styles: StyleLibrary | None = None,
    progress: Progress = silent,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    collections: Collections | None = None,
    decoders: Decoders | None = None,
) -> Result:
    """Look up a technique, validate, seed, call, check and time it.

    `images` has the picture, or the pictures in their order, of each input slot that is filled;
    without `collections` there are the built-in ones, without `decoders` none. The same arguments
    give the same artifacts on the same machine; the global random state is neither used nor
    changed.

    Raises:
        LanternError: an input or parameter is wrong, or the result is not finite.
        Cancelled: the progress callback asked to stop.
    """
    technique = registry.find(name)
    checked = (
        params if isinstance(params, Params) else validate(technique.params_type, params or {})
    )
    check_inputs(technique, images)
    pictures = {slot: _several(given) for slot, given in images.items()}
    collections = collections or Collections()
    checkpoints = checkpoints or Checkpoints()
    onward = Onward(progress, checked.steps_of_evidence)
    given = {
        "model": model,
        "styles": styles,
        "progress": onward.step,
        "generator": torch.Generator().manual_seed(seed),
        "checkpoints": checkpoints,
        "collections": collections,
        "decoders": decoders or Decoders(),
    }
    arguments = {argument: given[what] for argument, what in technique.injected.items()}
    for argument, value in arguments.items():
        if value is None:
            raise MissingInput(f"{name} needs a {argument}", pointer=f"/params/{argument}")
    sizes = {
        slot: [(p.height, p.width) for p in several for _ in range(_frames(technique, p))]
        for slot, several in pictures.items()
    }
    expected = estimate(technique, checked, sizes, model)
    started = time.perf_counter()
    outcome = technique.function(**_filled(technique, pictures), **arguments, params=checked)
    seconds = time.perf_counter() - started
    _check_finite(outcome.artifacts)
    return Result(
        technique=name,
        params=checked,
        seed=seed,
        artifacts=outcome.artifacts,
        facts=Facts(
            {
                **outcome.facts,
                **({"estimate": expected} if expected else {}),
                **_provenance(technique, model),
                **_warnings(technique, outcome.facts, pictures),
                **_collected(technique, checked, collections),
                "seconds": round(seconds, 4),
            },
            outcome.evidence_by(Judging(onward, checkpoints)),
        ),
    )


def validate(kind: type[Params], raw: Mapping[str, Any], *, text: bool = False) -> Any:
    """Turn raw values into a `Params` record.

    With `text` the values are strings, as in a query or on a command line: numbers are read from
    them and lists are split at commas. Without it types must match, as in JSON.

    Raises:
        InvalidParameters: one error for every value that is wrong.
    """
    if len(raw) > MOST_VALUES or any(_size(value) > MOST_VALUES for value in raw.values()):
        raise InvalidParameter(
            f"at most {MOST_VALUES} parameters are taken, and as many entries in a list",
            pointer="/params",
        )
    try:
        if text:
            return kind.model_validate({k: _split(kind, k, v) for k, v in raw.items()})
        return kind.model_validate_json(json.dumps(dict(raw)), strict=True)
    except pydantic.ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        raise InvalidParameters([_problem(kind, e) for e in found[:MOST_PROBLEMS]]) from None
    except ValueError as error:  # NaN and infinity have no JSON form to be validated
        raise InvalidParameter("a parameter is not a finite number", pointer="/params") from error


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def check_inputs(technique: Technique, given: Mapping[str, object]) -> None:
    """Check that the technique's input slots are filled as they may be.

    A slot's value is what stands for its picture, or a sequence of these.

    Raises:
        MissingInput: one is too empty or too full, or was given and does not exist.
    """
    for name, slot in technique.inputs.items():
        _check_number(technique, name, slot, len(_several(given.get(name, ()))))
    for name in given:
        if name not in technique.inputs:
            raise MissingInput(
                f"{technique.name} has no such input; it takes: {_slots(technique)}",
                pointer="/inputs", code="unknown-input",
            )  # fmt: skip


def _check_number(technique: Technique, name: str, slot: Slot, number: int) -> None:
    if number == 0 and slot.is_required:
        raise MissingInput(
            f"the input {name} is missing; {technique.name} takes: {_slots(technique)}",
            pointer=f"/inputs/{name}",
        )
    legal = f"it takes {slot.least} to {slot.most}" if slot.takes_several else "it takes 1"
    if number < slot.least:
        raise MissingInput(
            f"pictures given for {name}: {number}; {legal}: send more",
            pointer=f"/inputs/{name}",
        )
    if number > slot.most:
        raise MissingInput(
            f"pictures given for {name}: {number}; {legal}: leave the others out",
            pointer=f"/inputs/{name}/{slot.most}",
            code="too-many-inputs" if slot.takes_several else "repeated-input",
        )  # fmt: skip


def _slots(technique: Technique) -> str:
    return ", ".join(technique.inputs) or "none"


def _several(given: Any) -> tuple[Any, ...]:
    is_one = isinstance(given, (str, bytes)) or not isinstance(given, Sequence)
    return (given,) if is_one else tuple(given)


def _filled(
    technique: Technique, pictures: Mapping[str, tuple[Image, ...]]
) -> dict[str, Image | tuple[Image, ...] | None]:
    """Return what the technique's function gets for each slot."""
    filled: dict[str, Image | tuple[Image, ...] | None] = {}
    for name, slot in technique.inputs.items():
        given = pictures.get(name, ())
        filled[name] = given if slot.takes_several else next(iter(given), None)
    return filled


def _split(kind: type[Params], name: str, value: Any) -> Any:
    field = kind.model_fields.get(name)
    is_list = field is not None and any(word in str(field.annotation) for word in ("list", "tuple"))
    return [part for part in value.split(",") if part] if is_list else value


def _problem(kind: type[Params], entry: Any) -> InvalidParameter:
    path = [str(part) for part in entry["loc"]]
    if not path:  # of several together
        return InvalidParameter(entry["msg"].removeprefix("Value error, "), pointer="/params")
    name = path[0]
    if name not in kind.model_fields:
        legal = ", ".join(kind.model_fields) or "none"
        return InvalidParameter(
            f"there is no such parameter; the parameters are: {legal}",
            pointer="/params",
            code="unknown-parameter",
        )
    reason = entry["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return InvalidParameter(
        f"{name} {reason}; {legal_values(kind, name)}", pointer="/params/" + "/".join(path)
    )


@functools.cache
def legal_values(kind: type[Params], name: str) -> str:
    """Say in words what a parameter may be and what it is by default."""
    schema = kind.model_json_schema()["properties"][name]
    shape = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
    low = shape.get("minimum", shape.get("exclusiveMinimum"))
    high = shape.get("maximum", shape.get("exclusiveMaximum"))
    parts = []
    if "enum" in shape:
        parts.append("it may be " + ", ".join(map(str, shape["enum"])))
    if low is not None and high is not None:
        above = "above " if "exclusiveMinimum" in shape else ""
        parts.append(f"it may be {above}{low:g} to {high:g}")
    if "maxItems" in shape:
        parts.append(f"it may have at most {shape['maxItems']} entries")
    default = schema.get("default")
    parts.append(f"the default is {'chosen for you' if default in (None, []) else default}")
    return ", ".join(parts)


def _check_finite(artifacts: tuple[Artifact, ...]) -> None:
    for artifact in artifacts:
        if not artifact.is_finite():
            raise NotFinite(
                f"{artifact.name} is not finite; use less extreme parameters", pointer="/params"
            )


def estimate(
    technique: Technique, params: Params, sizes: Sizes, model: VisionModel | None
) -> dict[str, Any]:
    """Say what a run will take: passes of pictures through the network, operations, and memory.

    `sizes` are the heights and widths of the pictures of each slot, for techniques that animate
    those of every frame; the network may be a sketch.
    Nothing is said of techniques that take a moment.

    Raises:
        LanternError: the parameters do not fit the network.
    """
    if technique.work is None:
        return {}
    if technique.takes_model and model is not None:
        work = technique.work(params, sizes, model)
        operations = work.operations(model.costs(), model.input_size)
        memory = work.memory(model.tapes(), model.input_size)
    else:
        work = technique.work(params, sizes, None)
        operations, memory = work.more, work.beside
    return {
        "passes": round(work.passes),
        "gigaflop": round(operations / 1e9, 3),
        "megabytes": round(memory / 1e6, 1),
    }


def _frames(technique: Technique, picture: Image) -> int:
    """Return how many frames of a picture will be worked on."""
    return Image.probe(picture.film).frames if technique.animates and picture.film else 1


def _provenance(technique: Technique, model: VisionModel | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "versions": {
            "lantern": lantern.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    }
    if technique.takes_model and model is not None:
        facts["model"] = {"name": model.name, "weights_sha256": model.weights_sha256}
    return facts


def _warnings(
    technique: Technique, own: Mapping[str, Any], pictures: Mapping[str, Sequence[Image]]
) -> dict[str, list[str]]:
    """Return what was left out of the pictures, and after it what the technique warns of."""
    every = [image for slot in pictures.values() for image in slot]
    notes = [note for image in every for note in image.notes]
    if not technique.animates and any(image.film is not None for image in every):
        notes.append("a picture is animated; only its first frame is used")
    warnings = notes + list(own.get("warnings", ()))
    return {"warnings": warnings} if warnings else {}


def _collected(technique: Technique, params: Params, collections: Collections) -> dict[str, Any]:
    """Say which collection was read and, by its digest, what was in it."""
    if not technique.takes_collection:
        return {}
    found = collections.find(params.collection)  # type: ignore[attr-defined]
    return {"collection": {"name": found.name, "count": len(found), "digest": found.digest}}
