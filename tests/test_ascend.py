"""The one loop reaches what it strives for, can be watched, and stops when it should."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from lantern.checkpoint import Checkpoints
from lantern.errors import NotFinite
from lantern.image import Image
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.progress import Cancelled, Progress, Step, silent

GOAL = torch.tensor([1.0, -2.0, 3.0])
SCALE = torch.tensor([1.0, 3.0, 10.0])


def quadratic(at: Tensor) -> Callable[[int], Tensor]:
    return lambda step: (SCALE * (at - GOAL).square()).sum()


def no_preview() -> Image:
    raise AssertionError("nobody asked for a preview")


def start() -> Tensor:
    return torch.zeros(3, requires_grad=True)


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_the_minimum_of_a_quadratic_is_reached(optimizer: str) -> None:
    at = start()
    made: torch.optim.Optimizer = (
        torch.optim.Adam([at], lr=0.2)
        if optimizer == "adam"
        else torch.optim.LBFGS([at], lr=1.0, max_iter=1, history_size=20)
    )
    steps = 400 if optimizer == "adam" else 40
    trace = ascend(quadratic(at), made, steps=steps, progress=silent, preview=no_preview)
    assert torch.allclose(at.detach(), GOAL, atol=1e-3)
    assert len(trace.losses) == steps
    assert trace.losses[0] == pytest.approx(float((SCALE * GOAL.square()).sum()))
    assert trace.losses[-1] < 1e-5
    assert not trace.settled


def test_it_stops_once_the_loss_has_settled() -> None:
    at = start()
    loss = quadratic(at)
    trace = ascend(
        lambda step: loss(step) + 5,
        torch.optim.SGD([at], lr=0.02),
        steps=10_000,
        progress=silent,
        preview=no_preview,
        settled=Settled(window=5, gain=0.05),
    )
    assert trace.settled
    assert 10 <= len(trace.losses) < 200
    before, now = sum(trace.losses[-10:-5]) / 5, sum(trace.losses[-5:]) / 5
    assert before - now < 0.05 * before


@pytest.mark.parametrize(
    ("enough", "steps", "settled"), [(4.5, 5, True), (0.0, 0, True), (99, 9, False)]
)
def test_it_stops_before_the_step_at_which_nothing_is_left_to_do(
    enough: float, steps: int, settled: bool
) -> None:
    at = torch.zeros(1, requires_grad=True)
    asked: list[float] = []

    def is_over() -> bool:
        asked.append(at.item())
        return at.item() >= enough

    trace = ascend(
        lambda step: -at.sum(), torch.optim.SGD([at], lr=1.0), steps=9, progress=silent,
        preview=no_preview, is_over=is_over,
    )  # fmt: skip
    assert (at.item(), len(trace.losses), trace.settled) == (steps, steps, settled)
    assert asked == [float(n) for n in range(min(steps + 1, 9))]


@pytest.mark.parametrize(
    ("losses", "steps", "settled"),
    [
        ([4.0, 4.0, 4.0, 4.0, 4.0], 4, True),  # two windows of two are needed
        ([4.0, 3.0, 2.0, 1.0, 0.0], 5, False),
        ([4.0, 3.0, 3.0, 3.0, 3.0], 5, True),  # 3.5 to 3 is more than a tenth, 3 to 3 is not
        ([-4.0, -5.0, -6.0, -7.0, -8.0], 5, False),  # an objective ascended is a negative loss
        ([-4.0, -4.0, -4.0, -4.0, -4.0], 4, True),
        ([4.0, 4.0, 5.0, 5.0, 1.0], 4, True),
    ],
)
def test_settling_compares_windows(losses: list[float], steps: int, settled: bool) -> None:
    at = torch.zeros(1, requires_grad=True)
    trace = ascend(
        lambda step: losses[step] + 0 * at.sum(),
        torch.optim.SGD([at], lr=1.0),
        steps=5,
        progress=silent,
        preview=no_preview,
        settled=Settled(window=2, gain=0.1),
    )
    assert len(trace.losses) == steps
    assert trace.settled == settled


# of three samples one has settled from the start, one after the eighth step, and one stands at zero
SAMPLES = torch.tensor(
    [[1e6] * 14, [9.0, 8, 7, 6, 5, 4, 4, 4, 4, 4, 3, 2, 1, 0], [0.0] * 14], dtype=torch.double
)


def go_together(
    checkpoints: Checkpoints, progress: Progress = silent, rows: Sequence[int] = (0, 1, 2)
) -> tuple[Trace, list[float]]:
    at, samples = torch.zeros(len(rows), requires_grad=True), SAMPLES[list(rows)]
    last = torch.zeros(len(rows), dtype=torch.double)

    def loss(step: int) -> Tensor:
        last.copy_(samples[:, step])
        return (samples[:, step] + (at - step).square() - (at.detach() - step).square()).sum()

    trace = ascend(
        loss, torch.optim.Adam([at], lr=0.1), steps=14, progress=progress, preview=no_preview,
        each=lambda: last, settled=Settled(window=2, gain=0.1), checkpoints=checkpoints,
    )  # fmt: skip
    return trace, at.tolist()


@pytest.mark.parametrize(
    ("rows", "steps"), [((0,), 4), ((1,), 9), ((2,), 4), ((0, 2), 4), ((0, 1, 2), 9)]
)
def test_a_run_has_settled_once_each_of_its_samples_has(rows: list[int], steps: int) -> None:
    trace, _ = go_together(Checkpoints(), rows=rows)
    assert (len(trace.losses), trace.settled) == (steps, True)


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_a_run_whose_samples_settle_apart_is_resumed_to_the_same_end(dies_at: int) -> None:
    saved: list[bytes] = []

    def die(step: Step) -> None:
        if step.done == dies_at + 1:
            raise Killed

    whole = go_together(Checkpoints())
    with suppress(Killed):
        go_together(Checkpoints(saved.append, every_s=0.0, most_cost=1e9), die)
    assert go_together(Checkpoints(saved=saved[-1])) == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_it(value: float) -> None:
    at = start()
    seen: list[Step] = []
    with pytest.raises(NotFinite, match="at step 3; lower the learning rate"):
        ascend(
            lambda step: at.sum() * (value if step == 2 else 1.0),
            torch.optim.SGD([at], lr=0.1),
            steps=10,
            progress=seen.append,
            preview=no_preview,
        )
    assert [step.done for step in seen] == [1, 2]


def test_progress_tells_where_it_is() -> None:
    at = start()
    seen: list[Step] = []
    picture = Image(torch.zeros(3, 4, 4))
    trace = ascend(
        quadratic(at),
        torch.optim.SGD([at], lr=0.01),
        steps=4,
        progress=seen.append,
        preview=lambda: picture,
    )
    assert [(step.done, step.total) for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert tuple(step.loss for step in seen) == trace.losses
    assert [step.fraction for step in seen] == [0.25, 0.5, 0.75, 1.0]
    assert seen[0].preview() is picture


def test_progress_of_a_part_counts_in_the_whole() -> None:
    at = start()
    seen: list[Step] = []
    ascend(
        quadratic(at), torch.optim.SGD([at], lr=0.01), steps=2, progress=seen.append,
        preview=no_preview, stage=3, stages=6,
    )  # fmt: skip
    assert [(step.done, step.total) for step in seen] == [(7, 12), (8, 12)]


def test_progress_counts_on_where_parts_differ_in_length() -> None:
    seen: list[tuple[int, int]] = []
    for stage, (steps, before) in enumerate([(3, 0), (1, 3), (2, 4)]):
        at = start()
        ascend(
            quadratic(at), torch.optim.SGD([at], lr=0.01), steps=steps,
            progress=lambda step: seen.append((step.done, step.total)), preview=no_preview,
            stage=stage, span=(before, 6),
        )  # fmt: skip
    assert seen == [(number, 6) for number in range(1, 7)]


def test_a_cancellation_passes_through_at_once() -> None:
    at = start()
    calls: list[int] = []

    def loss(step: int) -> Tensor:
        calls.append(step)
        return at.square().sum()

    def stop(step: Step) -> None:
        if step.done == 2:
            raise Cancelled("by hand")

    with pytest.raises(Cancelled, match="by hand"):
        ascend(
            loss, torch.optim.SGD([at], lr=0.1), steps=100, progress=stop, preview=no_preview
        )  # fmt: skip
    assert calls == [0, 1]


def test_long_gradients_are_clipped() -> None:
    at = start()
    ascend(
        quadratic(at), torch.optim.SGD([at], lr=1.0), steps=1, progress=silent,
        preview=no_preview, clip_norm=0.5,
    )  # fmt: skip
    assert at.detach().norm().item() == pytest.approx(0.5, rel=1e-4)
    direction = (2 * SCALE * GOAL) / (2 * SCALE * GOAL).norm()
    assert torch.allclose(at.detach() / 0.5, direction, atol=1e-4)


def test_the_rate_is_set_before_each_step() -> None:
    at = torch.zeros(1, requires_grad=True)
    places: list[float] = []
    ascend(
        lambda step: -at.sum(),
        torch.optim.SGD([at], lr=99.0),
        steps=3,
        progress=lambda step: places.append(at.item()),
        preview=no_preview,
        rate=lambda step: [1.0, 10.0, 100.0][step],
    )
    assert [b - a for a, b in itertools.pairwise([0.0, *places])] == [1, 10, 100]


def test_parameters_are_projected_after_each_step() -> None:
    at = start()

    def project(step: int) -> None:
        at.clamp_(-1, 1)

    ascend(
        quadratic(at), torch.optim.SGD([at], lr=0.04), steps=200, progress=silent,
        preview=no_preview, after=project,
    )  # fmt: skip
    assert torch.allclose(at.detach(), GOAL.clamp(-1, 1), atol=1e-3)


def test_gradients_flow_even_where_the_caller_has_none() -> None:
    at = start()
    with torch.no_grad():
        trace: Trace = ascend(
            quadratic(at), torch.optim.SGD([at], lr=0.01), steps=3, progress=silent,
            preview=no_preview,
        )  # fmt: skip
        assert not torch.is_grad_enabled()
    assert trace.losses[2] < trace.losses[0]


class Killed(Exception):
    """The process dies here."""


@pytest.mark.parametrize("dies_at", range(1, 7))
def test_a_run_that_settles_is_resumed_at_any_step_to_the_same_end(dies_at: int) -> None:
    # two windows of two have settled after the sixth step
    losses = [9.0, 5.0, 4.0, 3.0, 3.0, 3.0, 1.0, 0.5, 0.2]
    saved: list[bytes] = []

    def go(checkpoints: Checkpoints, progress: Progress = silent) -> tuple[Trace, list[float]]:
        at = torch.zeros(1, requires_grad=True)
        trace = ascend(
            lambda step: losses[step] + (at - step).square().sum() - at.detach().sub(step) ** 2,
            torch.optim.Adam([at], lr=0.1),
            steps=len(losses),
            progress=progress,
            preview=no_preview,
            settled=Settled(window=2, gain=0.15),
            checkpoints=checkpoints,
        )
        return trace, at.tolist()

    def die(step: Step) -> None:
        if step.done == dies_at + 1:
            raise Killed

    whole = go(Checkpoints())
    assert len(whole[0].losses) == 6
    with suppress(Killed):
        go(Checkpoints(saved.append, every_s=0.0), die)
    assert go(Checkpoints(saved=saved[-1])) == whole
