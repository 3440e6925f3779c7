"""A map that is broken off and gone on with ends in the same bytes, and so does its evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lantern.artifact import Result
from lantern.checkpoint import Checkpoints
from lantern.image import Image
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
    ("integrated-gradients", {"steps": 30, "baseline": "blur"}),
]
Store = list[bytes]
Go = Callable[..., Result]


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


def told(result: Result) -> tuple[bytes, dict[str, Any]]:
    """Return the map as it is, and all facts, evidence among them, but for the time it took."""
    arrays = result.artifacts[0].arrays().values()
    return b"".join(values.tobytes() for values in arrays), {
        name: fact for name, fact in result.facts.items() if name != "seconds"
    }


def often(saved: Store) -> Checkpoints:
    return Checkpoints(saved.append, saved[-1] if saved else None, every_s=0.0, most_cost=1e9)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_map_whose_worker_died_ends_in_the_same_bytes(go: Go, share: float) -> None:
    steps: list[Step] = []
    unbroken = go(None, steps.append)
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
    assert [step.done for step in again] == [step.done for step in steps[dies_at - 1 :]]
    assert len(saved) == count
    assert told(resumed) == told(unbroken)
    assert len(saved) == count, "nothing is kept of the evidence"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_map_that_is_suspended_is_kept_behind_its_step(go: Go, share: float) -> None:
    steps: list[Step] = []
    unbroken = go(None, steps.append)
    stops_at = 1 + int(share * (len(steps) - 1))
    saved, seen = Store(), list[Step]()
    suspended = Checkpoints(saved.append, every_s=3600, suspend=lambda: len(seen) == stops_at)
    with pytest.raises(Suspended):
        go(suspended, seen.append)
    assert (len(seen), len(saved)) == (stops_at, 1)
    assert told(go(Checkpoints(saved=saved[-1]))) == told(unbroken)


def test_evidence_is_left_at_once_and_found_again(go: Go) -> None:
    saved: Store = []
    is_over = False
    checkpoints = Checkpoints(saved.append, every_s=0.0, most_cost=1e9, suspend=lambda: is_over)
    result, seen = go(checkpoints), len(saved)
    is_over = True
    with pytest.raises(Suspended):
        dict(result.facts)
    assert len(saved) == seen
    assert told(go(Checkpoints(saved=saved[-1]))) == told(go())


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
