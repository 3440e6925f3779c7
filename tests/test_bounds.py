"""What pictures by optimisation keep in memory is bounded, and told by the estimate."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern import registry
from lantern.decoders.library import Decoders
from lantern.decoders.network import LARGEST, Architecture, DecoderNetwork
from lantern.optimize import likeness as looking
from lantern.optimize.likeness import Drawing, View, likeness
from lantern.optimize.optimizers import Rule, remembered, stepping
from lantern.optimize.style import SlicedWasserstein
from lantern.run import estimate, run, validate
from lantern.vision_model import VisionModel
from tests.alive import watched
from tests.test_decoders import packed
from tests.test_likeness import STRIDES, blended, judged, look, noise


def told(name: str, model: VisionModel, sizes: Any = None, **params: Any) -> dict[str, Any]:
    technique = registry.find(name)
    return estimate(technique, validate(technique.params_type, params), sizes or {}, model)


# --- Style transfer ----------------------------------------------------------------------------


def test_what_is_wanted_is_looked_at_anew_where_it_would_be_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[bool] = []

    def spy(pixels: Tensor) -> Any:
        looks.append(torch.is_grad_enabled())
        return look(pixels)

    views = [View(blended(), by) for by in ((0, 0), (3, 5), (1, 2))]
    drawing = Drawing(noise(2, 3, 60, 90, seed=5), 0.3)
    far = look(drawing.pixels)[1]["far"].nbytes

    def made() -> Any:
        looks.clear()
        return likeness(spy, views, drawing, size=(60, 90), side=256, strides=STRIDES)

    monkeypatch.setattr(looking, "MOST_KEPT", 3 * far)
    kept = made()
    assert looks == [False] * 3
    monkeypatch.setattr(looking, "MOST_KEPT", 3 * far - 1)
    anew = made()
    assert looks == [False]
    pixels = noise(2, 3, 60, 90, seed=6)
    for view in range(3):
        (one, losses), (other, others) = (judged(j, pixels, view) for j in (kept, anew))
        assert losses == others
        assert torch.equal(one, other)
    assert looks[1:] == [True, True, False] * 3


@pytest.mark.parametrize("count", [1, 5])
def test_paintings_are_looked_at_one_at_a_time(count: int) -> None:
    seen: list[weakref.ref[Tensor]] = []

    def hands() -> Iterator[dict[str, Tensor]]:
        for number in range(count):
            assert sum(one() is not None for one in seen) <= 1
            activation = noise(1, 4, 30, 30, seed=number)
            seen.append(weakref.ref(activation))
            yield {"layer": activation}
            del activation

    streamed = SlicedWasserstein(hands(), None, torch.Generator().manual_seed(0))
    every = [{"layer": noise(1, 4, 30, 30, seed=number)} for number in range(count)]
    at_once = SlicedWasserstein(every, None, torch.Generator().manual_seed(0))
    found = {"layer": noise(count, 4, 30, 30, seed=9)}
    assert torch.equal(streamed.loss(found), at_once.loss(found))


def test_early_layers_of_the_content_are_counted_in_every_view(model: VisionModel) -> None:
    sizes = {"image": [(2048, 2048)], "style": [(256, 256)]}
    params: dict[str, Any] = {"size": 2048, "tile_size": 2048, "scales": 1}
    params |= {"style_layers": ["_blocks.0"], "shifts": 16}
    early = tuple(f"_blocks.0.{name}" for name in ("_depthwise_conv", "_bn1", "_bn2"))
    few = told("style-transfer", model, sizes, **params, content_layers=["_blocks.0"])
    many = told("style-transfer", model, sizes, **params, content_layers=["_blocks.0", *early])
    # what is wanted, and its error; neither is kept for every view
    each = model.held(early, 2048**2) / 1e6
    assert many["megabytes"] == pytest.approx(few["megabytes"] + 2 * each, rel=1e-3)
    # so each step looks once more; of a small picture not
    sizes["image"], params["size"] = [(96, 96)], 96
    small = told("style-transfer", model, sizes, **params, content_layers=["_blocks.0"])
    ratio = many["gigaflop"] / small["gigaflop"] / (2048 / 96) ** 2
    assert 1.25 < ratio < 1.55


# --- Activation maximisation -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fourier", "pixels", "maco", "decoder"])
def test_more_pictures_keep_no_more_for_their_gradient(
    method: str, small_model: VisionModel
) -> None:
    def most(count: int) -> int:
        params: dict[str, Any] = {"method": method, "steps": 1, "size": 48, "l2": 0.1}
        params |= {"objectives": [f"fc:0..{count - 1}"]}
        if method == "decoder":
            params["decoder"] = "own"
        with watched() as alive:
            run(
                "activation-maximization", {}, params, model=small_model,
                decoders=Decoders({"own": packed}),
            )  # fmt: skip
        return alive.most

    two, seven = most(2), most(7)
    # beside what passes together only the gradient by the parameter is kept
    parameter = 4 * 3 * 48 * 50 if method != "decoder" else 4 * 12
    assert seven <= two + 5 * parameter + 1000


def test_a_decoder_that_is_not_known_is_counted_as_the_largest(model: VisionModel) -> None:
    params: dict[str, Any] = {"objectives": ["_conv_head:*"], "size": 64, "steps": 10}
    alone = told("activation-maximization", model, **params)
    drawn = told("activation-maximization", model, **params, method="decoder", decoder="any")
    assert drawn["megabytes"] > 8 * LARGEST.tape / 1e6
    assert drawn["gigaflop"] > alone["gigaflop"] + 2 * 10 * 1280 * 8


@pytest.mark.parametrize(
    "architecture", [Architecture((40,), 64, 16), Architecture((8, 4, 4), 128, 8)]
)
def test_what_a_decoder_keeps_is_about_what_is_counted(architecture: Architecture) -> None:
    network = DecoderNetwork(architecture)
    with watched() as alive:
        network(torch.rand(3, *architecture.code)).sum().backward()
    weights = sum(parameter.nbytes for parameter in network.parameters())
    assert 0.8 < (alive.most - weights) / (3 * architecture.tape) < 1.25


def test_training_a_decoder_counts_what_it_draws(model: VisionModel) -> None:
    small, large = (
        told("train-decoder", model, batch=64, size=128, width=width)["megabytes"]
        for width in (4, 64)
    )
    assert large > small + 1500


def test_learning_a_style_counts_the_network_that_paints(model: VisionModel) -> None:
    found = told("train-style", model, {"style": [(64, 64)]}, batch=16, crop=512)["megabytes"]
    tape = max(model.tapes()[layer] for layer in (*model.style_layers, *model.content_layers))
    assert found > 16 * (512 / 224) ** 2 * tape / 1e6 + 1000


def test_shunning_variants_are_counted(small_model: VisionModel) -> None:
    params: dict[str, Any] = {"variants": 16, "size": 512, "method": "maco"}
    params |= {"objectives": ["class:1"]}
    alone = told("activation-maximization", small_model, **params)
    shunning = told("activation-maximization", small_model, **params, diversity=1.0)
    assert shunning["megabytes"] > alone["megabytes"]


# --- Step rules and distributions --------------------------------------------------------------


@pytest.mark.parametrize(("rule", "steps"), [("adam", 3), ("l-bfgs", 25)])
def test_what_a_step_rule_remembers_is_counted(rule: Rule, steps: int) -> None:
    at = torch.linspace(0.1, 1, 5000).requires_grad_()
    optimizer = stepping([at], rule, rate=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (at.square().square() * torch.linspace(1, 9, 5000)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    for _ in range(steps):
        optimizer.step(closure)
    held: dict[int, int] = {}

    def hold(value: Any) -> None:
        if isinstance(value, Tensor):
            held[value.data_ptr()] = value.nbytes
        elif isinstance(value, list | tuple | dict):
            for one in value.values() if isinstance(value, dict) else value:
                hold(one)

    hold([at, at.grad, dict(optimizer.state)])
    stored = sum(held.values()) - at.nbytes  # all but the gradient
    assert 0.9 < (sum(held.values()) + stored) / remembered(rule, at.nbytes) < 1.1


def test_l_bfgs_remembers_less_of_larger_pictures() -> None:
    def history(side: int) -> Any:
        pixels = torch.empty(1, 3, side, side, device="meta", requires_grad=True)
        return stepping([pixels], "l-bfgs", rate=1.0).param_groups[0]["history_size"]

    assert [history(side) for side in (256, 1024, 1448, 2048)] == [20, 20, 10, 8]


TEXTURES: list[tuple[dict[str, Any], Callable[[float, float], bool]]] = [
    ({"method": "gram"}, lambda tape, found: found > tape + 1500),
    ({"method": "gram", "optimizer": "adam"}, lambda tape, found: tape + 600 < found < tape + 1500),
]


@pytest.mark.parametrize(("params", "is_right"), TEXTURES)
def test_large_textures_count_what_their_rule_remembers(
    params: dict[str, Any], is_right: Callable[[float, float], bool], model: VisionModel
) -> None:
    size = {"height": 2048, "width": 2048}
    found = told("texture-synthesis", model, {"image": [(200, 200)]}, **size, **params)
    tape = max(model.tapes()[layer] for layer in model.style_layers) * (1024 / 224) ** 2 / 1e6
    assert is_right(tape, found["megabytes"])


def test_sorting_distributions_has_its_price(model: VisionModel) -> None:
    sizes = {"image": [(200, 200)], "style": [(200, 200)]}
    for name, kind in (("texture-synthesis", "method"), ("style-transfer", "statistic")):
        gram, sliced = (
            told(name, model, sizes, **{kind: of}) for of in ("gram", "sliced-wasserstein")
        )
        assert sliced["gigaflop"] > 1.5 * gram["gigaflop"]
        assert sliced["megabytes"] > gram["megabytes"]


# --- Dreams ------------------------------------------------------------------------------------


def test_matching_a_guide_is_counted(model: VisionModel) -> None:
    params: dict[str, Any] = {"layer": "_blocks.0", "size": 512, "octaves": 1, "steps": 7}
    alone = told("deep-dream", model, {"image": [(512, 512)]}, **params)
    sizes = {"image": [(512, 512)], "guide": [(224, 224)]}
    guided = told("deep-dream", model, sizes, **params)
    by_hand = 7 * 256 * 256 * 1024 * 16 * 2 / 1e9
    assert guided["gigaflop"] - alone["gigaflop"] == pytest.approx(by_hand, rel=1e-3)
    assert guided["megabytes"] > alone["megabytes"] + 4 * 16 * 256 * 256 / 1e6
