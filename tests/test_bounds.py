"""What pictures by optimisation keep in memory is bounded, and told by the estimate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lantern import registry
from lantern.decoders.library import Decoders
from lantern.decoders.network import LARGEST, Architecture, DecoderNetwork
from lantern.optimize import likeness as looking
from lantern.optimize.likeness import Drawing, View, likeness
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


def test_shunning_variants_are_counted(small_model: VisionModel) -> None:
    params: dict[str, Any] = {"variants": 16, "size": 512, "method": "maco"}
    params |= {"objectives": ["class:1"]}
    alone = told("activation-maximization", small_model, **params)
    shunning = told("activation-maximization", small_model, **params, diversity=1.0)
    assert shunning["megabytes"] > alone["megabytes"]
