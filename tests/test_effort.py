"""What explanations will take is counted before, and what they do behind their steps is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor, nn

from lantern.image import Image
from lantern.progress import Cancelled, Step, Told
from lantern.run import run
from lantern.vision_model import VisionModel


@contextmanager
def counting(model: VisionModel) -> Iterator[list[int]]:
    """Yield how many pictures went forward through a network, pass by pass."""
    passes: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes.append(len(inputs[0]))

    handle = model.network.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


CALLS: list[tuple[str, dict[str, Any], int]] = [
    # passes that went back
    ("rise", {"masks": 64, "error": 1e-9}, 0),
    ("saliency", {}, 1),
    ("saliency", {"method": "smooth-grad", "samples": 6, "exact": True}, 6),
    ("integrated-gradients", {"steps": 6, "gap": 1.0, "most_steps": 6, "exact": True}, 6),
    (
        "integrated-gradients",
        {"steps": 6, "gap": 1e-9, "most_steps": 24, "exact": True},
        6 + 12 + 24,
    ),
]


@pytest.mark.parametrize(("technique", "params", "back"), CALLS)
@pytest.mark.parametrize("evidence", [0, 5])
def test_the_estimate_counts_the_passes(
    technique: str,
    params: dict[str, Any],
    back: int,
    evidence: int,
    near: VisionModel,
    photo: Image,
) -> None:
    near.costs()  # which are looked up once
    with counting(near) as passes:
        result = run(technique, {"image": photo}, params | {"evidence": evidence}, model=near)
        expected = dict(result.facts)["estimate"]["passes"]
    assert expected == sum(passes) + back


def test_maps_of_random_networks_count(near: VisionModel, photo: Image) -> None:
    def passes(**params: Any) -> float:
        given = {"masks": 64, "evidence": 0} | params
        result = run("rise", {"image": photo}, given, model=near)
        return float(result.facts["estimate"]["passes"])

    assert passes(sanity=True) == 3 * passes()


def test_all_methods_of_a_comparison_count(near: VisionModel, photo: Image) -> None:
    def passes(technique: str, **params: Any) -> float:
        return float(
            run(technique, {"image": photo}, params, model=near).facts["estimate"]["passes"]
        )

    both = passes("compare-methods", methods=["saliency", "smooth-grad", "saliency"])
    one, other = passes("saliency"), passes("saliency", method="smooth-grad")
    assert both == one + other


@pytest.mark.parametrize(
    ("technique", "params"),
    [
        ("rise", {"masks": 64}),
        ("occlusion", {"patch": 16, "stride": 12}),
        ("occlusion", {"patch": 16, "stride": 12, "coarse": 0.5}),
        ("saliency", {"method": "smooth-grad", "samples": 9}),
        ("integrated-gradients", {"steps": 9, "gap": 1e-6, "most_steps": 40}),
        ("compare-methods", {"methods": ["occlusion", "saliency"]}),
    ],
)
def test_behind_the_last_step_a_run_can_still_be_stopped(
    technique: str, params: dict[str, Any], near: VisionModel, photo: Image
) -> None:
    steps: list[Step] = []
    is_over = False

    def watch(step: Step) -> None:
        steps.append(step)
        if is_over:
            raise Cancelled

    given = params | {"sanity": True, "evidence": 0}
    result = run(technique, {"image": photo}, given, model=near, progress=watch)
    last, is_over = steps[-1], True
    assert all(step.done <= step.total for step in steps)
    with pytest.raises(Cancelled):
        dict(result.facts)
    assert steps[-1] is last


def test_before_the_first_step_that_counts_the_others_are_told() -> None:
    told: list[Step] = []
    steps = [Step(done, 9, 0.0, lambda: pytest.fail("not looked at")) for done in range(1, 4)]
    both = Told(told.append)
    both.again(steps[0])
    both.step(steps[1])
    both.again(steps[2])
    assert told == [steps[0], steps[1], steps[1]]
