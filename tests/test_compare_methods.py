"""Methods side by side: each as if it were alone, and none in the way of the others."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from lantern.artifact import Grid, Heatmap, Result
from lantern.checkpoint import Checkpoints, DamagedCheckpoint
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.progress import Progress, Step, Suspended, silent
from lantern.run import run
from lantern.techniques.compare_methods import Method
from lantern.techniques.rise import draw_masks
from lantern.vision_model import VisionModel
from tests.transformers import tiny_vit


def compared(model: VisionModel, image: Image, **params: object) -> Result:
    return run("compare-methods", {"image": image}, {"evidence": 0, **params}, model=model, seed=3)


def captions(result: Result) -> list[str]:
    assert isinstance(result.principal, Grid)
    return list(result.principal.captions)


def test_all_explain_the_same_class_and_are_judged(model: VisionModel, photo: Image) -> None:
    methods = ["saliency", "grad-cam", "layer-cam"]
    result = compared(model, photo, methods=methods, evidence=2)
    _, *maps = result.artifacts
    assert captions(result) == ["picture", *methods]
    assert [artifact.name for artifact in maps] == ["heatmap", "heatmap-2", "heatmap-3"]
    judged = result.facts["methods"]
    assert list(judged) == methods
    assert all(0 <= judged[name]["insertion"]["auc"] <= 1 for name in methods)
    alone = run("grad-cam", {"image": photo}, {"evidence": 2}, model=model)
    assert isinstance(alone.principal, Heatmap)
    assert isinstance(maps[1], Heatmap)
    assert torch.allclose(alone.principal.values, maps[1].values, atol=1e-6)
    assert alone.facts["insertion"] == judged["grad-cam"]["insertion"]
    assert result.facts["class"] == alone.facts["class"]


def test_a_method_named_twice_is_shown_once(model: VisionModel, photo: Image) -> None:
    result = compared(model, photo, methods=["grad-cam", "grad-cam"])
    assert len(result.artifacts) == 2


def test_by_default_a_transformer_is_explained_by_what_it_has(photo: Image) -> None:
    result = run("compare-methods", {"image": photo}, {}, model=tiny_vit())
    shown = ["saliency", "smooth-grad", "integrated-gradients", "grad-cam", "rise"]
    assert captions(result) == ["picture", *shown]
    assert len(result.artifacts) == 1 + len(shown)
    assert result.facts["warnings"][0].startswith("guided-backprop is left out: ")
    judged = result.facts["methods"]
    assert list(judged) == [*shown[:3], "guided-backprop", *shown[3:]]
    assert "no ReLU" in judged["guided-backprop"]["refused"]
    assert all("insertion" in judged[method] for method in shown)


def test_every_method_is_shown_or_says_why_not(small_model: VisionModel, photo: Image) -> None:
    every = list(get_args(Method))
    result = compared(small_model, photo, methods=every)
    assert captions(result) == ["picture", *every[:-1]]
    judged = result.facts["methods"]
    assert list(judged) == every
    assert "no attention" in judged["attention-map"]["refused"]
    about = {warning.partition(":")[0] for warning in result.facts["warnings"]}
    assert {"guided-backprop", "deconvnet", "guided-grad-cam"} <= about
    assert "attention-map is left out" in about


def test_attention_is_a_method_of_transformers(photo: Image) -> None:
    result = compared(tiny_vit(), photo, methods=["deconvnet", "attention-map"])
    assert captions(result) == ["picture", "attention-map"]


@pytest.mark.parametrize(
    ("method", "name", "fixed"),
    [
        ("smooth-grad", "saliency", {"method": "smooth-grad"}),
        ("rise", "rise", {}),
        ("deconvnet", "guided-backprop", {"rule": "deconvnet"}),
        ("ablation-cam", "grad-cam", {"method": "ablation-cam"}),
    ],
)
def test_a_method_gives_what_it_gives_alone(
    method: str, name: str, fixed: dict[str, Any], small_model: VisionModel, photo: Image
) -> None:
    together = compared(small_model, photo, methods=["smooth-grad", "rise", method])
    alone = run(name, {"image": photo}, {"evidence": 0, **fixed}, model=small_model, seed=3)
    place = captions(together).index(method)
    got, wanted = together.artifacts[place], alone.principal
    assert isinstance(got, Heatmap)
    assert isinstance(wanted, Heatmap)
    assert torch.equal(got.values, wanted.values)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"methods": ["guided-backprop", "deconvnet"]}, "/params/methods"),
        ({"target": 5}, "/params/target"),
    ],
)
def test_what_no_method_can_do_is_refused(
    params: dict[str, Any], pointer: str, photo: Image
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        compared(tiny_vit(), photo, **params)
    assert caught.value.pointer == pointer


class Killed(Exception):
    """The process dies here."""


class TestGoingOn:
    """A comparison that is broken off goes on with the method it was at."""

    METHODS = ("rise", "saliency", "attention-map", "smooth-grad", "grad-cam", "occlusion")

    def go(
        self,
        model: VisionModel,
        image: Image,
        checkpoints: Checkpoints | None = None,
        watch: Progress = silent,
    ) -> Result:
        params = {"methods": list(self.METHODS), "evidence": 2}
        return run(
            "compare-methods", {"image": image}, params, model=model, seed=3,
            checkpoints=checkpoints, progress=watch,
        )  # fmt: skip

    def told(self, result: Result) -> tuple[bytes, dict[str, Any]]:
        arrays = [values for part in result.artifacts for values in part.arrays().values()]
        facts = {name: fact for name, fact in result.facts.items() if name != "seconds"}
        return b"".join(values.tobytes() for values in arrays), facts

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_it_ends_in_the_same_bytes(
        self, share: float, small_model: VisionModel, photo: Image
    ) -> None:
        heard: list[Step] = []
        unbroken = self.go(small_model, photo, watch=heard.append)
        dies_at, seen, saved = int(share * len(heard)), list[Step](), list[bytes]()

        def die(step: Step) -> None:
            seen.append(step)
            if len(seen) > dies_at:
                raise Killed

        with pytest.raises(Killed):
            self.go(small_model, photo, Checkpoints(saved.append, every_s=0, most_cost=1e9), die)
        again: list[Step] = []
        resumed = self.go(small_model, photo, Checkpoints(saved=saved[-1]), again.append)
        assert len(again) < len(heard)
        assert self.told(resumed) == self.told(unbroken)

    def test_a_method_that_has_ended_is_not_asked_all_again(
        self, small_model: VisionModel, photo: Image, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts: list[int] = []

        def draw(count: int, *rest: Any) -> torch.Tensor:
            counts.append(count)
            return draw_masks(count, *rest)

        monkeypatch.setattr("lantern.techniques.rise.draw_masks", draw)
        saved, steps = list[bytes](), list[int]()
        with pytest.raises(Suspended):
            self.go(
                small_model, photo,
                Checkpoints(saved.append, every_s=3600, suspend=lambda: max(steps) == 1),
                lambda step: steps.append(step.done),
            )  # fmt: skip
        assert counts
        assert len(saved) == 1
        counts.clear()
        steps.clear()
        resumed = self.go(
            small_model, photo, Checkpoints(saved=saved[-1]), lambda step: steps.append(step.done)
        )
        assert not counts
        assert set(steps) - {0} == set(range(1, 7))
        assert self.told(resumed) == self.told(self.go(small_model, photo))

    def test_a_state_that_does_not_fit_is_no_refusal(
        self, small_model: VisionModel, photo: Image
    ) -> None:
        saved: list[bytes] = []
        kept = Checkpoints(saved.append, every_s=0, most_cost=1e9)
        kept.part("rise").keep_tensors(lambda: {"count": torch.tensor(3)})
        with pytest.raises(DamagedCheckpoint):
            self.go(small_model, photo, Checkpoints(saved=saved[-1]))
