"""What holds for all techniques, also for those to come."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_origin

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import lantern
from lantern import registry
from lantern.artifact import (
    Animation,
    Artifact,
    Grid,
    Heatmap,
    Picture,
    Rendering,
    Result,
    Table,
    Weights,
)
from lantern.call import document
from lantern.errors import InvalidParameter, LanternError, UnknownName
from lantern.image import Image
from lantern.params import Params
from lantern.progress import Cancelled, Progress, Step, silent
from lantern.records import DEFAULT_MODEL
from lantern.registry import Technique
from lantern.run import run, validate
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from tests.films import film
from tests.transformers import tiny_vit

EVERY = list(registry.every())
MODELLED = [technique for technique in EVERY if technique.takes_model]
ITERATING = [technique for technique in EVERY if technique.takes_progress]
SEEDED = [technique for technique in EVERY if technique.takes_seed]

Run = Callable[..., Result]


class Boom(Exception):
    pass


def each(techniques: list[Technique]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("technique", techniques, ids=lambda t: t.name)


CHEAP: dict[str, Any] = {
    "looked_at": 4,
    "batch": 4,
    "crop": 64,
    "octaves": 2,
    "evidence": 2,
    "gap": 1.0,
    "samples": 5,
    "masks": 64,
    "patch": 16,
    "stride": 12,
    "cells": 4,
    "layers": ["_blocks.2", "_blocks.8"],
    "most": 8,
    "methods": ["smooth-grad", "saliency", "grad-cam"],
}


# Methods of several steps, where the usual one has a single one; chance plays a part in the first.
TELLING = ("smooth-grad", "score-cam")


def cheap(technique: Technique) -> dict[str, Any]:
    """Return parameters that keep a run short, by the names and bounds of its fields."""
    schema = technique.params_type.model_json_schema().get("properties", {})
    chosen: dict[str, Any] = {name: CHEAP[name] for name in schema if name in CHEAP}
    for name, entry in schema.items():
        if name in ("steps", "iterations"):
            # of explanations four pass together, and a run is to have more than one batch
            least = 3 if technique.runs == "job" else 5
            chosen[name] = max(least, entry.get("anyOf", [entry])[0]["minimum"])
        elif telling := [way for way in entry.get("enum", ()) if way in TELLING]:
            chosen[name] = telling[0]
        elif entry.get("type") == "integer" and name == "channels":
            chosen[name] = 12
        elif entry.get("type") == "integer" and name.endswith("size"):
            chosen[name] = max(64, entry["minimum"])
        elif entry.get("type") == "number" and name.endswith("scale"):
            chosen[name] = entry["minimum"]
    return chosen


def pictures(technique: Technique, photo: Image) -> dict[str, tuple[Image, ...]]:
    """Return pictures of 64 by 72 pixels for each slot, two where it takes several."""
    whole = photo.resize(112, 136)
    return {
        slot: tuple(
            whole.crop(4 * number + 6 * place, 5 * number + 7 * place, 64, 72)
            for place in range(min(entry.most, max(entry.least, 2)))
        )
        for number, (slot, entry) in enumerate(technique.inputs.items())
    }


def watched_pictures(technique: Technique, photo: Image) -> dict[str, tuple[Image, ...]]:
    """Return pictures of which there is more than one step to see."""
    images = pictures(technique, photo)
    if technique.animates:
        images[next(iter(images))] = (Image.decode(film()),)
    return images


REPAINTING = ("fast-style", "arbitrary-style", "style-transfer", "deep-dream")


def repaints(technique: Technique) -> bool:
    """Tell whether the pictures it makes are its first input, painted anew."""
    first = next(iter(technique.inputs.values()), None)
    return technique.keeps_shape and first is not None and (first.least, first.most) == (1, 1)


def optional_slots(technique: Technique) -> list[str]:
    return [name for name, slot in technique.inputs.items() if not slot.is_required]


def changed(
    images: Mapping[str, Sequence[Image]], change: Callable[[Image], Image]
) -> dict[str, tuple[Image, ...]]:
    return {slot: tuple(map(change, several)) for slot, several in images.items()}


@pytest.fixture(scope="module")
def transformer() -> VisionModel:
    return tiny_vit()


@pytest.fixture
def network(technique: Technique, near: VisionModel, transformer: VisionModel) -> VisionModel:
    """The default network from nearby, or a small one of the kind the technique is for."""
    return near if technique.default_model == DEFAULT_MODEL else transformer


@pytest.fixture
def go(network: VisionModel, styles: StyleLibrary, photo: Image) -> Run:
    """Run a technique, with whatever it needs and as cheaply as it can be."""

    def go(
        technique: Technique,
        images: Mapping[str, Sequence[Image]] | None = None,
        progress: Progress = silent,
        seed: int = 0,
        **params: Any,
    ) -> Result:
        return run(
            technique.name,
            pictures(technique, photo) if images is None else images,
            cheap(technique) | params,
            model=network,
            styles=styles,
            progress=progress,
            seed=seed,
        )

    return go


_results: dict[str, Result] = {}


@pytest.fixture
def result(technique: Technique, go: Run) -> Result:
    """The plain result of a technique, made once."""
    if technique.name not in _results:
        _results[technique.name] = go(technique)
    return _results[technique.name]


def numbers(result: Result) -> dict[str, np.ndarray[Any, Any]]:
    return {name: a for artifact in result.artifacts for name, a in artifact.arrays().items()}


def same(one: Result, other: Result) -> bool:
    """Tell whether two results are equal to the last bit, but for the time they took."""
    first, second = numbers(one), numbers(other)
    return (
        first.keys() == second.keys()
        and all(np.array_equal(first[name], second[name]) for name in first)
        and timeless(one) == timeless(other)
        and all(
            a.encode(a.media_types[0]) == b.encode(b.media_types[0])
            for a, b in zip(one.artifacts, other.artifacts, strict=True)
        )
    )


def assert_declared(technique: Technique, names: list[str]) -> None:
    """Hold that artifacts come in the declared order, numbered where there are several of one."""
    declared = list(technique.outputs)
    kinds = [re.sub(r"-[0-9]+$", "", name) for name in names]
    assert len(set(names)) == len(names)
    assert kinds[0] == declared[0]
    assert kinds == sorted(kinds, key=declared.index)
    for kind in set(kinds):
        count = kinds.count(kind)
        assert [n for n, k in zip(names, kinds, strict=True) if k == kind] == [
            kind,
            *(f"{kind}-{number}" for number in range(2, count + 1)),
        ]


def timeless(result: Result) -> dict[str, Any]:
    return {name: fact for name, fact in result.facts.items() if name != "seconds"}


# --- Results -----------------------------------------------------------------------------------


@each(EVERY)
def test_results_are_finite_and_in_range(technique: Technique, result: Result) -> None:
    assert_declared(technique, [artifact.name for artifact in result.artifacts])
    for artifact in result.artifacts:
        assert artifact.is_finite()
        if isinstance(artifact, Picture):
            pixels = artifact.image.pixels
            assert pixels.dtype == torch.float32
            assert pixels.shape[0] == 3
            assert pixels.min() >= 0
            assert pixels.max() <= 1
            assert pixels.std() > 0.01
            assert not pixels.requires_grad
        elif isinstance(artifact, Heatmap):
            assert artifact.values.shape == (64, 72)
            assert artifact.values.dtype == torch.float32
            assert not artifact.values.requires_grad
            assert artifact.values.std() > 0
        elif isinstance(artifact, Grid):
            assert artifact.images.dtype == torch.float32
            assert artifact.images.min() >= 0
            assert artifact.images.max() <= 1
            assert not artifact.images.requires_grad
        elif isinstance(artifact, Animation):
            assert len(artifact.frames) > 1
            assert all(f.pixels.min() >= 0 and f.pixels.max() <= 1 for f in artifact.frames)
            assert not any(frame.pixels.requires_grad for frame in artifact.frames)
        elif isinstance(artifact, Weights):
            assert artifact.tensors
            assert artifact.facts
        else:
            assert isinstance(artifact, Table)
            assert artifact.rows
            assert len({tuple(row) for row in artifact.rows}) == 1


@each([technique for technique in EVERY if repaints(technique)])
def test_pictures_keep_the_shape_of_the_first_input(technique: Technique, result: Result) -> None:
    for artifact in result.artifacts:
        if isinstance(artifact, Picture):
            image = artifact.image
            assert image.width / image.height == pytest.approx(72 / 64, rel=0.03)
            longest = max(cheap(technique).get("size", 0), 64)
            assert max(image.width, image.height) in (longest, 72)


@each(EVERY)
def test_facts_let_a_result_be_repeated(technique: Technique, result: Result) -> None:
    facts = json.loads(json.dumps(dict(result.facts), allow_nan=False))
    assert facts["versions"].keys() == {"lantern", "torch", "python"}
    assert facts["versions"]["lantern"] == lantern.__version__
    assert facts["seconds"] > 0
    assert result.technique == technique.name
    assert result.seed == 0
    assert isinstance(result.params, technique.params_type)
    assert ("model" in facts) == technique.takes_model
    if technique.takes_model:
        assert len(facts["model"]["weights_sha256"]) == 64
    own = facts.keys() - {"versions", "seconds", "model", "warnings"}
    assert own, "it found nothing worth saying"


@each(EVERY)
def test_the_document_holds_everything(technique: Technique, result: Result) -> None:
    said = json.loads(json.dumps(document(result, Rendering()), allow_nan=False))
    assert_declared(technique, [entry["name"] for entry in said["artifacts"]])
    # what it says of its parameters can be sent again
    assert validate(technique.params_type, said["params"]) == result.params


def rendering_options() -> Iterator[dict[str, Any]]:
    """Go through the choices and the ends of the range of every rendering option."""
    for name, field in Rendering.model_fields.items():
        if get_origin(field.annotation) is Literal:
            values: list[Any] = list(get_args(field.annotation))
        elif field.annotation is bool:
            values = [True, False]
        else:
            schema = Rendering.model_json_schema()["properties"][name]
            values = [schema["minimum"], schema["maximum"]]
        yield from ({name: value} for value in values)


@each(EVERY)
def test_every_rendering_option_encodes(technique: Technique, result: Result) -> None:
    for artifact in result.artifacts:
        if artifact.name not in technique.outputs:
            continue  # one of its kind is enough
        for option in [{}, *rendering_options()]:
            rendering = validate(Rendering, option)
            for media_type in artifact.media_types:
                body = artifact.encode(media_type, rendering)
                check_encoded(artifact, media_type, body)


def check_encoded(artifact: Artifact, media_type: str, body: bytes) -> None:
    """Read a file back with other code than that which wrote it."""
    if isinstance(artifact, Table):
        assert len(json.loads(body)) == len(artifact.rows)
    elif isinstance(artifact, Weights):
        read = safetensors.torch.load(body)
        assert read.keys() == artifact.tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in artifact.tensors.items())
    else:
        with PIL.Image.open(io.BytesIO(body)) as opened:
            opened.load()
            assert opened.get_format_mimetype() == media_type
            sides = (opened.height, opened.width)
        if not isinstance(artifact, Grid):
            assert sides == artifact.arrays()[artifact.name].shape[-2:]


# --- Repeatability -----------------------------------------------------------------------------


@each(EVERY)
def test_the_same_seed_gives_the_same_bytes(technique: Technique, result: Result, go: Run) -> None:
    torch.manual_seed(12345)
    np.random.seed(1)
    random.seed(1)
    assert same(go(technique), result)


@each(SEEDED)
def test_another_seed_gives_another_result(technique: Technique, result: Result, go: Run) -> None:
    other = go(technique, seed=1)
    assert other.seed == 1
    first, second = numbers(result), numbers(other)
    assert any(not np.array_equal(first[name], second[name]) for name in first)


@each([technique for technique in EVERY if technique not in SEEDED])
def test_without_chance_the_seed_does_not_matter(
    technique: Technique, result: Result, go: Run
) -> None:
    assert same(go(technique, seed=1), result)


@each(EVERY)
def test_a_call_does_not_depend_on_those_before_it(
    technique: Technique, result: Result, go: Run, photo: Image
) -> None:
    others = changed(pictures(technique, photo), lambda p: Image(1 - p.pixels.flip(1)))
    again = go(technique, others)
    assert not technique.inputs or not same(again, result)
    assert same(go(technique), result)
    assert same(go(technique, others), again)


@each(EVERY)
def test_inputs_are_not_written_to(technique: Technique, go: Run, photo: Image) -> None:
    given = pictures(technique, photo)
    alpha = torch.linspace(0, 1, 64 * 72).view(64, 72)
    kept = changed(given, lambda image: Image(image.pixels.clone()))
    clear = go(technique, changed(given, lambda image: Image(image.pixels, alpha=alpha)))
    for slot, several in kept.items():
        for before, after in zip(several, given[slot], strict=True):
            assert torch.equal(before.pixels, after.pixels)
    assert torch.equal(alpha, torch.linspace(0, 1, 64 * 72).view(64, 72))
    for artifact in clear.artifacts:  # and a transparent picture stays transparent
        if isinstance(artifact, Picture) and repaints(technique):
            assert artifact.image.alpha is not None
            assert artifact.image.alpha.shape == artifact.image.pixels.shape[1:]


@each([t for t in EVERY if t.name in REPAINTING])
def test_a_layer_is_painted_as_if_it_were_opaque(
    technique: Technique, result: Result, go: Run, photo: Image
) -> None:
    given = pictures(technique, photo)
    first = next(iter(given))
    alpha = torch.full((64, 72), 0.4)
    given[first] = tuple(
        Image(torch.ones(3, 64, 72), alpha=alpha).repainted(opaque.pixels)
        for opaque in given[first]
    )
    for clear, plain in zip(go(technique, given).artifacts, result.artifacts, strict=True):
        if not isinstance(clear, Picture) or not isinstance(plain, Picture):
            continue
        with PIL.Image.open(io.BytesIO(clear.encode("image/png"))) as opened:
            levels = np.asarray(opened.convert("RGBA")).astype(float)
        assert set(levels[..., 3].flat) == {102}
        apart = np.abs(levels[..., :3] - plain.image.to_uint8())
        assert apart.mean() < 6  # what dreams make of rounding


@each([technique for technique in EVERY if optional_slots(technique)])
def test_slots_that_need_not_be_filled_may_stay_empty(
    technique: Technique, go: Run, photo: Image
) -> None:
    images = pictures(technique, photo)
    least = {slot: images[slot][: entry.least] for slot, entry in technique.inputs.items()}
    assert all(artifact.is_finite() for artifact in go(technique, least).artifacts)
    unfilled = {slot: several for slot, several in least.items() if several}
    assert same(go(technique, unfilled), go(technique, least))


@each([technique for technique in EVERY if technique.inputs])
@pytest.mark.parametrize(
    "picture",
    [
        Image(torch.zeros(3, 64, 64)),
        Image(torch.ones(3, 64, 64)),
        Image(torch.rand(3, 16, 128, generator=torch.Generator().manual_seed(0))),
        Image(torch.rand(3, 128, 16, generator=torch.Generator().manual_seed(0))),
        Image(torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0))),
    ],
    ids=["black", "white", "wide", "tall", "small"],
)
def test_extreme_pictures_are_no_trouble(technique: Technique, picture: Image, go: Run) -> None:
    given = {name: (picture,) * max(slot.least, 1) for name, slot in technique.inputs.items()}
    is_sized = bool({"size", "exemplar_size"} & technique.params_type.model_fields.keys())
    if technique.runs == "job" and is_sized and min(picture.height, picture.width) < 32:
        with pytest.raises(InvalidParameter) as caught:
            go(technique, given)
        assert caught.value.pointer in ("/params/size", "/params/exemplar_size")
        assert "enlarge" in caught.value.detail
    else:
        assert all(artifact.is_finite() for artifact in go(technique, given).artifacts)


# --- Cleanliness -------------------------------------------------------------------------------


def trace(model: VisionModel) -> dict[str, Any]:
    """Return everything a call could leave changed."""
    digest = hashlib.sha256()
    for name, value in model.network.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    modules = list(model.network.modules())
    return {
        "state": digest.hexdigest(),
        "hooks": [
            len(value)
            for module in modules
            for name, value in vars(module).items()
            if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
        ],
        "attributes": [sorted(vars(module)) for module in modules],
        "types": [type(module) for module in modules],
        "training": [module.training for module in modules],
        "requires_grad": [p.requires_grad for p in model.network.parameters()],
        "grad": [p.grad is not None for p in model.network.parameters()],
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": str(np.random.get_state()),
        "python random": random.getstate(),
        "gradients on": torch.is_grad_enabled(),
        "inference on": torch.is_inference_mode_enabled(),
        "functions caught": torch._C._len_torch_function_stack(),
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@contextmanager
def failing(model: VisionModel, at: int) -> Iterator[list[bool]]:
    """Let the network fail in the middle of its forward pass number `at`; yield what was passed.

    So do its quick twins, which are other networks of the same kind.
    """
    passes: list[bool] = []
    names = {name for name, _ in model.network.named_modules()}
    early = next(n for n in ("_blocks.0", "encoder.layers.encoder_layer_0") if n in names)
    whole, block = type(model.network), type(model.layer(early))

    def fail(module: nn.Module, inputs: object) -> None:
        if type(module) is whole:
            passes.append(len(passes) + 1 < at)
        elif type(module) is block and len(passes) == at:
            raise Boom

    handle = register_module_forward_pre_hook(fail)
    try:
        yield passes
    finally:
        handle.remove()


WRONG: list[tuple[dict[str, Any], type[LanternError]]] = [
    ({"target": 99_999}, InvalidParameter),
    ({"targets": [99_999]}, InvalidParameter),
    ({"layer": "nowhere"}, UnknownName),
    ({"layer": "_blocks"}, InvalidParameter),
    ({"layers": ["nowhere"]}, UnknownName),
    ({"channels": [99_999]}, InvalidParameter),
    ({"style": "nowhere"}, UnknownName),
]


def wrong_params(kind: type[Params]) -> list[tuple[dict[str, Any], type[LanternError]]]:
    """Return parameters that are well-formed and yet wrong, of those the technique has."""
    schema = kind.model_json_schema().get("properties", {})
    return [
        (params, error)
        for params, error in WRONG
        if params.keys() <= kind.model_fields.keys()
        and all(
            isinstance(v, list) == (schema[n].get("type") == "array") for n, v in params.items()
        )
    ]


@each(EVERY)
def test_a_call_leaves_no_trace(technique: Technique, go: Run, network: VisionModel) -> None:
    before = trace(network)
    assert not any(before["hooks"] + before["training"] + before["requires_grad"] + before["grad"])
    go(technique)
    assert trace(network) == before


@each(MODELLED)
@pytest.mark.parametrize("at", [1, 3])
def test_a_network_that_fails_is_left_clean(
    technique: Technique, at: int, go: Run, network: VisionModel
) -> None:
    before = trace(network)
    has_failed = False
    with failing(network, at) as passes:
        try:
            go(technique)
        except Boom:
            has_failed = True
    assert has_failed == (False in passes)
    assert has_failed or (not technique.takes_progress and len(passes) < at)
    assert trace(network) == before


@each(EVERY)
def test_wrong_parameters_are_pointed_at_and_leave_no_trace(
    technique: Technique, go: Run, network: VisionModel
) -> None:
    before = trace(network)
    for params, kind in wrong_params(technique.params_type):
        with pytest.raises(kind) as caught:
            go(technique, **params)
        assert caught.value.pointer == f"/params/{next(iter(params))}"
        assert trace(network) == before


@each(ITERATING)
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("kind", [Cancelled, Boom])
def test_a_cancellation_ends_a_run_within_a_step(
    kind: type[Exception],
    at: int,
    technique: Technique,
    go: Run,
    network: VisionModel,
    photo: Image,
) -> None:
    before, seen = trace(network), 0
    images = watched_pictures(technique, photo)

    def stop(step: Step) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            raise kind

    with pytest.raises(kind):
        go(technique, images, progress=stop)
    assert seen == at
    assert trace(network) == before


@each([technique for technique in EVERY if technique.family == "attribution"])
def test_evidence_can_be_watched(technique: Technique, go: Run, photo: Image) -> None:
    shown: list[Image] = []
    watched = go(
        technique, pictures(technique, photo), progress=lambda step: shown.append(step.preview())
    )
    before = len(shown)
    dict(watched.facts)
    has_curves = "insertion" in watched.facts or "methods" in watched.facts
    assert len(shown) > before or not has_curves


@each(ITERATING)
def test_progress_goes_from_the_first_step_to_the_last(
    technique: Technique, go: Run, result: Result, photo: Image
) -> None:
    told: list[tuple[int, int]] = []
    images = watched_pictures(technique, photo)
    unwatched = go(technique, images) if technique.animates else result
    previews: list[Image] = []

    def watch(step: Step) -> None:
        told.append((step.done, step.total))
        assert np.isfinite(step.loss)
        previews.append(step.preview())

    watched = go(technique, images, progress=watch)
    dict(watched.facts)  # evidence has steps of its own
    steps, total = told, told[-1][1]
    if technique.family == "attribution":  # the last is told again where more is not counted
        steps = [step for step, _ in itertools.groupby(told) if step[0]]
    assert {of for _, of in steps} == {total}
    pairs = itertools.pairwise([0, *(number for number, _ in steps)])
    leaps = [after - before for before, after in pairs if after != before + 1]
    if leaps or len(steps) < total:
        assert result.facts["settled"]
    # only to the steps of the evidence
    assert not leaps or (len(leaps) == 1 and leaps[0] > 1 and technique.family == "attribution")
    assert same(watched, unwatched), "watching changes the result"
    if isinstance(watched.principal, Picture):  # of several, any may be the last
        made = [part.image.pixels for part in watched.artifacts if isinstance(part, Picture)]
        alike = [final for final in made if final.shape == previews[-1].pixels.shape]
        assert any(torch.allclose(previews[-1].pixels, final, atol=1e-6) for final in alike)
    assert all(p.pixels.min() >= 0 and p.pixels.max() <= 1 for p in previews)
