"""What is made to excite a class looks like one: more than the network says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern.artifact import Grid, Result, Table
from lantern.errors import InvalidParameter
from lantern.metrics import high_frequency_share
from lantern.optimize.regularize import blur
from lantern.optimize.transforms import Movement, moved
from lantern.run import run
from lantern.vision_model import LOGITS, VisionModel

CLASSES = (130, 340, 950)
NAIVE = {"method": "pixels", "l2": 0, "jitter": 0, "blur": 0}
SHORT = {"steps": 32, "size": 96}


def make(model: VisionModel, seed: int = 0, **params: Any) -> Result:
    return run("activation-maximization", {}, params, model=model, seed=seed)


def pictures(result: Result) -> Tensor:
    assert isinstance(result.principal, Grid)
    return result.principal.images


def rows(result: Result) -> tuple[Mapping[str, Any], ...]:
    scores = result.artifacts[1]
    assert isinstance(scores, Table)
    return scores.rows


@pytest.fixture(scope="module")
def made(model: VisionModel) -> dict[str, Tensor]:
    classes: dict[str, Any] = {"objectives": [f"class:{target}" for target in CLASSES]}
    ways: dict[str, dict[str, Any]] = {
        "naive": NAIVE,
        "pixels": {"method": "pixels"},
        "fourier": {},
    }
    return {way: pictures(make(model, **SHORT, **classes, **own)) for way, own in ways.items()}


def probabilities(model: VisionModel, seen: Tensor, each: int = 1) -> Tensor:
    """Return the mean probability of its class for each picture, of which there are `each`."""
    with torch.inference_mode():
        found = model.logits(seen).softmax(1)
    wanted = torch.tensor(CLASSES).repeat_interleave(each)
    return found[torch.arange(len(seen)), wanted].view(-1, each).mean(1)


def test_classes_are_reached_also_under_movements(
    made: dict[str, Tensor], model: VisionModel
) -> None:
    stored = made["fourier"].mul(255).round().div(255).repeat_interleave(8, 0)
    chance = torch.Generator().manual_seed(1)
    movements = Movement(jitter=6, scale=0.1, rotate=10).draw(len(stored), (96, 96), chance)
    assert (probabilities(model, moved(stored, movements, (96, 96)), each=8) >= 0.9).all()


def test_pictures_are_smoother_than_those_of_naive_ascent(made: dict[str, Tensor]) -> None:
    grain = {way: high_frequency_share(p).mean().item() for way, p in made.items()}
    assert grain["fourier"] <= 0.25 * grain["naive"]
    assert grain["pixels"] <= 0.6 * grain["naive"]


def test_classes_survive_a_blur(made: dict[str, Tensor], model: VisionModel) -> None:
    # 2 px at the network's own size
    left = {way: probabilities(model, blur(p, 1.0)).mean().item() for way, p in made.items()}
    assert left["fourier"] >= 0.2
    assert left["fourier"] >= 5 * left["naive"]


@pytest.mark.parametrize("method", ["fourier", "pixels", "yosinski", "maco"])
def test_every_method_climbs(method: str, model: VisionModel) -> None:
    short, longer = (
        rows(make(model, objectives=["_blocks.4:3", "class:130"], method=method, steps=n, size=96))
        for n in (1, 24)
    )
    for before, after in zip(short, longer, strict=True):
        assert after["value"] > before["value"] + 0.5


def test_a_neuron_draws_in_its_receptive_field_only(model: VisionModel) -> None:
    """Steps are the gradient's, so what the neuron does not see stays as it began."""
    params: dict[str, Any] = {"method": "pixels", "l2": 0, "jitter": 0, "blur": 0, "size": 96}
    spot = "_blocks.1:4@3x3"  # at stride 4: near the upper left corner
    one, two = (pictures(make(model, objectives=[spot], steps=n, **params))[0] for n in (1, 12))
    change = (two - one).abs().amax(0)
    assert change[:24, :24].max() > 0.05
    assert change[60:, 60:].max() < 1e-4


def test_a_layers_channels_are_one_sheet(model: VisionModel) -> None:
    result = make(model, objectives=["_blocks.0:*"], steps=3, size=48)
    sheet = result.principal
    assert isinstance(sheet, Grid)
    assert len(sheet.images) == model.channel_count("_blocks.0") == 16
    assert sheet.captions == tuple(f"_blocks.0:{n}" for n in range(16))
    assert [row["objective"] for row in rows(result)] == list(sheet.captions)


def test_a_batch_makes_what_single_runs_make(model: VisionModel) -> None:
    """Without chance between the steps; the start is drawn for the whole batch."""
    params: dict[str, Any] = {"method": "yosinski", "jitter": 0, "steps": 6, "size": 64}
    both = pictures(make(model, objectives=["class:130", "_blocks.4:3"], **params))
    alone = pictures(make(model, objectives=["class:130"], **params))
    assert torch.allclose(both[:1], alone, atol=2e-3)


def silence(model: VisionModel, channels: slice) -> None:
    """Bring the first channels of a network so far below zero that nothing wakes them."""
    bias = model.network.get_parameter("conv1.bias")
    with torch.no_grad():
        bias[channels] = -1e6


def test_what_stays_silent_is_warned_of(small_model: VisionModel) -> None:
    silence(small_model, slice(2, 5))
    silent = ["relu1:2", "relu1:3@center", "relu1:4-0.5*relu1:3"]
    others = ["relu1:1", "conv1:2", "-relu1:2"]
    result = make(small_model, objectives=silent + others, steps=2, size=48)
    (warning,) = result.facts["warnings"]
    assert "of 6 pictures 3 leave their objective silent" in warning
    assert f": {', '.join(silent)};" in warning
    assert "warnings" not in make(small_model, objectives=others, steps=2, size=48).facts


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("fourier", {"blur": 2.0}),
        ("fourier", {"norm_percentile": 50.0}),
        ("decoder", {"contribution_percentile": 5.0}),
        ("maco", {"blur_every": 3}),
        ("maco", {"jitter": 4.0}),
        ("maco", {"scale": 0.1}),
        ("maco", {"rotate": 5.0}),
        ("yosinski", {"diversity": 1.0}),
    ],
)
def test_what_would_do_nothing_is_refused(
    method: str, params: dict[str, Any], model: VisionModel
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        make(model, method=method, **params, steps=1, size=48)
    assert caught.value.pointer == f"/params/{next(iter(params))}"


@pytest.mark.parametrize(
    ("method", "params", "recipe"),
    [
        (
            "fourier",
            {"jitter": 3.0, "blur": None},
            {"learning_rate": 0.02, "l2": 0.0, "jitter": 3.0, "scale": 0.1, "rotate": 10},
        ),
        ("maco", {"l2": 0.5}, {"learning_rate": 0.2, "l2": 0.5}),
    ],
)
def test_facts_tell_the_recipe(
    method: str, params: dict[str, Any], recipe: dict[str, float], model: VisionModel
) -> None:
    result = make(model, method=method, **params, steps=1, size=48)
    assert result.facts["recipe"] == recipe
    yosinski = make(model, method="yosinski", steps=1, size=48, blur=1.5).facts["recipe"]
    assert (yosinski["blur"], yosinski["blur_every"], yosinski["norm_percentile"]) == (1.5, 4, 30)


def test_maco_settles_only_where_its_looks_narrow_no_more(small_model: VisionModel) -> None:
    """A unit that nothing moves has settled at once; the looks at it go on becoming smaller."""
    silence(small_model, slice(2, 3))
    facts = make(
        small_model, objectives=["relu1:2"], method="maco", steps=160, size=48
    ).facts  # fmt: skip
    assert (facts["steps"], facts["settled"]) == (140, True)


def test_one_picture_does_not_end_anothers_run(model: VisionModel) -> None:
    """The strong one, which has settled soon, is thousands of times the weak one."""
    params: dict[str, Any] = {"method": "pixels", "jitter": 0, "l2": 0, "steps": 100, "size": 48}
    strong, weak = "1000*_conv_stem:3", "0.01*class:130"
    steps = {
        name: make(model, objectives=of, **params).facts["steps"]
        for name, of in (("strong", [strong]), ("weak", [weak]), ("both", [strong, weak]))
    }
    assert steps["strong"] < steps["weak"]
    assert steps["both"] >= steps["weak"]


def test_diversity_parts_the_variants(model: VisionModel) -> None:
    def likeness(diversity: float) -> float:
        result = make(
            model,
            objectives=["_blocks.6:5"],
            variants=3,
            diversity=diversity,
            **SHORT | {"size": 64},
        )
        with model.capture([model.cam_layer]) as features, torch.inference_mode():
            seen = features(pictures(result))[model.cam_layer].flatten(2)
        grams = torch.bmm(seen, seen.transpose(1, 2)).flatten(1)
        return torch.corrcoef(grams).fill_diagonal_(0).sum().item() / 6

    assert likeness(200.0) < likeness(0.0) - 0.02


def test_a_difference_of_classes_is_one_without_the_other(model: VisionModel) -> None:
    result = make(model, objectives=["class:281", "class:281-class:282"], **SHORT)
    with torch.inference_mode(), model.capture([LOGITS]) as features:
        logits = features(pictures(result))[LOGITS]
    assert logits[1, 282] < logits[0, 282] - 2


def test_the_estimate_is_of_what_was_asked(model: VisionModel) -> None:
    params: dict[str, Any] = {"steps": 4, "size": 64}
    one = make(model, objectives=["_blocks.2:1"], **params).facts["estimate"]
    four = make(model, objectives=["_blocks.2:0..3"], **params).facts["estimate"]
    deep = make(model, objectives=["class:1"], **params).facts["estimate"]
    assert one["passes"] == 2 * 4
    assert four["passes"] == 2 * 4 * 4
    assert deep["gigaflop"] > 3 * one["gigaflop"]


@pytest.mark.parametrize(
    ("params", "found", "pointer"),
    [
        ({"variants": 2, "size": 48}, "at most 1024", "/params/objectives/0"),
        ({"size": 192}, "choose a smaller size", "/params/size"),
    ],
)
def test_more_pictures_than_one_run_may_make_are_refused(
    model: VisionModel, params: dict[str, Any], found: str, pointer: str
) -> None:
    with pytest.raises(InvalidParameter, match=found) as caught:
        make(model, objectives=["_conv_head:*"], steps=1, **params)
    assert caught.value.pointer == pointer


def test_a_layer_of_many_channels_is_one_sheet(model: VisionModel) -> None:
    result = make(model, objectives=["_blocks.15:*"], steps=1, size=48)
    assert isinstance(result.principal, Grid)
    assert len(result.principal.images) == model.channel_count("_blocks.15") == 320


@pytest.mark.parametrize(
    "params", [{}, {"variants": 3, "diversity": 10.0}, {"method": "maco", "variants": 2}]
)
def test_how_many_pass_together_changes_nothing(
    model: VisionModel, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    made = []
    for count in (1, 5, 1000):
        monkeypatch.setattr(VisionModel, "together", lambda self, side, count=count: count)
        given = {"objectives": ["class:130", "_blocks.4:3"], "steps": 3, "size": 64, **params}
        made.append(pictures(make(model, **given)))
    # rounding, which another number does otherwise, turns a few steps of Adam around
    for other in made[1:]:
        assert (made[0] - other).abs().mean() < 1e-3
