"""Pictures that are looked at before a run's own steps are looked at once, also in broken runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lantern.artifact import Grid, Result
from lantern.checkpoint import Checkpoints
from lantern.looks import Looks
from lantern.progress import Progress, Step, Suspended, silent
from lantern.run import run
from lantern.vision_model import VisionModel

COUNT, STEPS = 5, 3
CASES: dict[str, dict[str, Any]] = {
    "multifaceted": {"facets": 2, "size": 48, "folder": ""},
    "train-decoder": {"size": 16, "width": 4, "batch": 2, "feature_weight": 0.1},
}
Store = list[bytes]
Go = Callable[..., Result]


class Killed(Exception):
    """The process dies here."""


@pytest.fixture(params=CASES)
def go(
    request: pytest.FixtureRequest, small_model: VisionModel, monkeypatch: pytest.MonkeyPatch
) -> Go:
    for module in ("facets", "multifaceted", "train_decoder"):
        monkeypatch.setattr(f"lantern.techniques.{module}.BATCH", 1)
    params = CASES[request.param] | {"looked_at": COUNT, "steps": STEPS}

    def go(checkpoints: Checkpoints | None = None, watch: Progress = silent) -> Result:
        return run(
            request.param, {}, params, model=small_model, seed=3, progress=watch,
            checkpoints=checkpoints,
        )  # fmt: skip

    return go


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note at which pictures a run looks."""
    seen: list[int] = []
    through = Looks.through

    def note(looks: Looks, look: Callable[[int], Any], preview: Callable[[int], Any]) -> Any:
        return through(looks, lambda at: seen.append(at) or look(at), preview)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Looks, "through", note)
    return seen


def told(result: Result) -> tuple[bytes, ...]:
    """Return all that was made, and what is said of it but for the time it took."""
    assert isinstance(result.principal, Grid)
    facts = {name: fact for name, fact in result.facts.items() if name != "seconds"}
    return (
        result.principal.images.numpy().tobytes(),
        *(array.tobytes() for part in result.artifacts[1:] for array in part.arrays().values()),
        json.dumps(facts).encode(),
    )


def often(saved: Store) -> Checkpoints:
    return Checkpoints(saved.append, saved[-1] if saved else None, every_s=0.0, most_cost=1e9)


def broken_at(go: Go, saved: Store, at: int) -> None:
    """Run until a step is told of, whose end the process does not live to see."""

    def die(step: Step) -> None:
        if step.done == at:
            raise Killed

    with pytest.raises(Killed):
        go(often(saved), die)


@pytest.mark.parametrize("dies_at", range(1, COUNT + STEPS + 1))
def test_a_run_that_goes_on_looks_at_no_picture_again(
    go: Go, looked: list[int], dies_at: int
) -> None:
    steps: list[int] = []
    unbroken = go(None, lambda step: steps.append(step.done))
    assert steps == list(range(1, COUNT + STEPS + 1))
    assert looked == list(range(COUNT))
    saved = Store()
    broken_at(go, saved, dies_at)
    looked.clear()
    steps.clear()
    resumed = go(often(saved), lambda step: steps.append(step.done))
    assert steps == list(range(dies_at, COUNT + STEPS + 1))
    assert looked == list(range(dies_at - 1, COUNT))
    assert told(resumed) == told(unbroken)


def test_a_run_that_is_broken_off_at_each_step_gets_to_its_end(go: Go, looked: list[int]) -> None:
    saved = Store()
    for at in range(1, COUNT + STEPS + 1):
        broken_at(go, saved, at)
    resumed = go(often(saved))
    looked.clear()
    assert told(resumed) == told(go())


def test_looks_are_kept_where_a_run_is_put_down_behind_them(go: Go, looked: list[int]) -> None:
    saved = Store()
    with pytest.raises(Suspended):
        go(Checkpoints(saved.append, every_s=3600, suspend=lambda: len(looked) == COUNT))
    assert len(saved) == 1
    assert told(go(Checkpoints(saved=saved[-1]))) == told(go())
    assert looked == [*range(COUNT)] * 2


def test_what_is_too_much_to_be_kept_is_looked_at_again(
    go: Go, looked: list[int], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "train-decoder" not in request.node.name:
        pytest.skip("what is kept of facets is small")
    monkeypatch.setattr("lantern.techniques.train_decoder.MOST_KEPT", 1000)
    saved = Store()
    broken_at(go, saved, COUNT + 2)
    assert len(saved) == 1
    resumed = go(often(saved))
    assert looked == [*range(COUNT)] * 2
    assert told(resumed) == told(go())
