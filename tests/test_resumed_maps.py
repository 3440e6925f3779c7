"""A map that is broken off and gone on with ends in the same bytes, and so does its evidence."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern.artifact import Result
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.judging import Batches, Judging, Through
from lantern.progress import Progress, Step, Suspended, silent
from lantern.run import run
from lantern.vision_model import VisionModel

CASES: list[tuple[str, dict[str, Any]]] = [
    ("rise", {"masks": 150, "error": 1e-6}),
    ("rise", {"masks": 1000, "error": 0.2}),
    ("occlusion", {"patch": 4, "stride": 3}),
    ("occlusion", {"patch": 4, "stride": 3, "exact": True, "fill": "blur"}),
    ("occlusion", {"patch": 5, "stride": 2, "coarse": 0.5, "score": "logit"}),
    ("occlusion", {"patch": 5, "stride": 2, "coarse": 0.5, "layer": "conv2", "channel": 3}),
    ("saliency", {"method": "smooth-grad", "samples": 22}),
    ("saliency", {"method": "var-grad", "samples": 11, "exact": True}),
    ("integrated-gradients", {"steps": 9, "most_steps": 40, "gap": 1e-12}),
    ("grad-cam", {"method": "score-cam"}),
    ("grad-cam", {"method": "ablation-cam", "channels": 9}),
    ("integrated-gradients", {"steps": 30, "baseline": "blur"}),
]
# What evidence finds one by one: the curves' ends, both curves, and maps of random networks.
EVIDENCE = 4
Store = list[bytes]
Go = Callable[..., Result]
Unbroken = tuple[list[int], bytes, dict[str, Any]]
"""The steps of a run, its map and its facts."""


class Killed(Exception):
    """The process dies here."""


@pytest.fixture(params=CASES, ids=json.dumps)
def go(request: pytest.FixtureRequest, small_model: VisionModel) -> Go:
    """Run a technique with evidence of every kind."""
    name, params = request.param
    chance = torch.Generator().manual_seed(2)
    picture = Image(torch.rand(3, 40, 48, generator=chance))

    def go(checkpoints: Checkpoints | None = None, watch: Progress = silent) -> Result:
        return run(
            name, {"image": picture}, params | {"sanity": True, "evidence": 2}, model=small_model,
            seed=3, progress=watch,
            checkpoints=checkpoints,
        )  # fmt: skip

    return go


_unbroken: dict[str, Unbroken] = {}


@pytest.fixture
def unbroken(request: pytest.FixtureRequest, go: Go) -> Unbroken:
    """Run a case to its end, once."""
    case = json.dumps(request.node.callspec.params["go"])
    if case not in _unbroken:
        steps: list[Step] = []
        result = go(None, steps.append)
        own = [step.done for step in steps]  # those of the evidence come later
        _unbroken[case] = (own, *told(result))
    return _unbroken[case]


def told(result: Result) -> tuple[bytes, dict[str, Any]]:
    """Return the map as it is, and all facts, evidence among them, but for the time it took."""
    arrays = result.artifacts[0].arrays().values()
    return b"".join(values.tobytes() for values in arrays), {
        name: fact for name, fact in result.facts.items() if name != "seconds"
    }


def often(saved: Store) -> Checkpoints:
    return Checkpoints(saved.append, saved[-1] if saved else None, every_s=0.0, most_cost=1e9)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_map_whose_worker_died_ends_in_the_same_bytes(
    go: Go, unbroken: Unbroken, share: float
) -> None:
    steps, *wanted = unbroken
    count = len(steps)
    dies_at, seen = 1 + int(share * (count - 1)), 0

    def die(step: Step) -> None:
        nonlocal seen
        seen += 1
        if seen > dies_at:
            raise Killed

    saved: Store = []
    with pytest.raises(Killed):  # where all steps were taken, while the evidence is found
        dict(go(often(saved), die).facts)
    assert len(saved) == dies_at
    again: list[Step] = []
    resumed = go(often(saved), again.append)
    assert len(again) == count - dies_at + 1, "it tells where it was, and of what is left"
    assert [step.done for step in again] == steps[dies_at - 1 :]
    assert len(saved) == count
    assert [*told(resumed)] == wanted
    assert len(saved) > count, "what evidence finds is kept as well"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_map_that_is_suspended_is_kept_behind_its_step(
    go: Go, unbroken: Unbroken, share: float
) -> None:
    steps, *wanted = unbroken
    stops_at = 1 + int(share * (len(steps) - 1))
    saved, seen = Store(), list[Step]()
    suspended = Checkpoints(saved.append, every_s=3600, suspend=lambda: len(seen) == stops_at)
    with pytest.raises(Suspended):
        go(suspended, seen.append)
    assert (len(seen), len(saved)) == (stops_at, 1)
    assert [*told(go(Checkpoints(saved=saved[-1])))] == wanted


def test_evidence_is_left_at_once_and_found_again(go: Go, unbroken: Unbroken) -> None:
    saved: Store = []
    is_over = False
    checkpoints = Checkpoints(saved.append, every_s=0.0, most_cost=1e9, suspend=lambda: is_over)
    result, seen = go(checkpoints), len(saved)
    is_over = True
    with pytest.raises(Suspended):
        dict(result.facts)
    assert len(saved) <= seen + 1
    assert [*told(go(Checkpoints(saved=saved[-1])))] == [*unbroken[1:]]


@pytest.mark.parametrize("judged", range(EVIDENCE))
def test_evidence_that_was_found_is_not_found_again(
    judged: int, small_model: VisionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, made = Image(torch.rand(3, 32, 32)), list[int]()

    def noted_one(at: int, batch: Callable[[], Tensor]) -> Tensor:
        made.append(at)
        return batch()

    def through(batches: Batches) -> Batches:
        return [functools.partial(noted_one, at, batch) for at, batch in enumerate(batches)]

    go_through = Judging.through

    def noted(judging: Judging, *rest: Any) -> Through:
        go = go_through(judging, *rest)
        return lambda batches: go(through(batches))

    monkeypatch.setattr(Judging, "through", noted)
    params = {"masks": 150, "error": 1e-6, "sanity": True, "evidence": 2}
    saved, steps = Store(), list[Step]()

    def go(checkpoints: Checkpoints) -> Result:
        return run(
            "rise", {"image": picture}, params, model=small_model, seed=3, progress=steps.append,
            checkpoints=checkpoints,
        )  # fmt: skip

    unbroken = told(go(Checkpoints()))
    numbers = [step.done for step in steps]
    assert numbers == sorted(numbers), "maps of random networks do not set it back"
    assert {step.total for step in steps} == {steps[-1].done}
    assert len(made) == EVIDENCE
    own = len(set(numbers)) - EVIDENCE
    steps.clear()
    result = go(
        Checkpoints(
            saved.append,
            every_s=3600,
            suspend=lambda: len({step.done for step in steps}) > own + judged,
        )
    )
    with pytest.raises(Suspended):
        dict(result.facts)
    made.clear()
    steps.clear()
    resumed = told(go(Checkpoints(saved=saved[-1])))
    assert len(made) == EVIDENCE - judged - 1
    assert resumed == unbroken
    assert steps[-1].done == steps[-1].total


@pytest.mark.parametrize("name", ["rise", "saliency", "compare-methods"])
def test_evidence_that_is_broken_off_again_and_again_is_the_same(
    name: str, small_model: VisionModel
) -> None:
    picture = Image(torch.rand(3, 32, 32))
    cases: dict[str, dict[str, Any]] = {
        "rise": {"masks": 64, "error": 1e-6},
        "saliency": {"method": "smooth-grad", "samples": 12},
        "compare-methods": {"methods": ["smooth-grad", "grad-cam", "rise"]},
    }
    params = cases[name]

    def go(checkpoints: Checkpoints, watch: Progress = silent) -> Result:
        return run(
            name, {"image": picture}, params | {"sanity": True, "evidence": 2}, model=small_model,
            seed=3, progress=watch, checkpoints=checkpoints,
        )  # fmt: skip

    unbroken, saved = told(go(Checkpoints())), Store()
    left: list[None] = []
    is_judged = False

    def die(step: Step) -> None:
        if is_judged and not left:
            raise Killed
        del left[:is_judged]

    for lives_for in (0, 2, 3, 3):
        left, is_judged = [None] * lives_for, False
        result = go(often(saved), die)
        is_judged = True
        with pytest.raises(Killed):
            dict(result.facts)
    assert told(go(often(saved))) == unbroken


def test_evidence_of_a_plain_gradient_is_left_as_well(small_model: VisionModel) -> None:
    is_over = False
    picture = Image(torch.full((3, 32, 32), 0.4))
    result = run(
        "saliency", {"image": picture}, {"sanity": True, "evidence": 0}, model=small_model,
        checkpoints=Checkpoints(suspend=lambda: is_over),
    )  # fmt: skip
    is_over = True
    with pytest.raises(Suspended):
        dict(result.facts)
