"""Steps of a run and, behind them, those of the evidence for its result."""

from __future__ import annotations

import torch

from lantern.image import Image
from lantern.progress import Onward, Step


def grey() -> Image:
    return Image(torch.full((3, 4, 4), 0.5))


def test_evidence_counts_from_the_first_step_and_goes_on_behind_the_last() -> None:
    told: list[Step] = []
    onward = Onward(told.append, lambda own: 2 * own + 1)
    for done in (1, 2):
        onward.step(Step(done, 2, 0.5, grey))
    onward.beyond(1, grey)
    onward.step(Step(2, 2, 0.5, grey))  # as a map of a random network tells it again
    onward.beyond(4, grey)
    assert [step.done for step in told] == [1, 2, 3, 3, 7]
    assert {step.total for step in told} == {7}


def test_a_run_that_has_settled_leaves_steps_out() -> None:
    told: list[Step] = []
    onward = Onward(told.append, lambda own: 1)
    onward.step(Step(1, 9, 0.5, grey))
    onward.beyond(1, grey)
    assert [(step.done, step.total) for step in told] == [(1, 10), (10, 10)]


def test_a_run_without_steps_of_its_own_tells_of_its_evidence() -> None:
    told: list[Step] = []
    onward = Onward(told.append, lambda own: 3)
    onward.beyond(1, grey)
    onward.beyond(2, grey)
    assert [(step.done, step.total) for step in told] == [(1, 3), (3, 3)]
    assert told[0].preview().height == 4
