"""What pictures by optimisation keep in memory is bounded, and told by the estimate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lantern import registry
from lantern.decoders.library import Decoders
from lantern.decoders.network import LARGEST, Architecture, DecoderNetwork
from lantern.run import estimate, run, validate
from lantern.vision_model import VisionModel
from tests.alive import watched
from tests.test_decoders import packed


def told(name: str, model: VisionModel, sizes: Any = None, **params: Any) -> dict[str, Any]:
    technique = registry.find(name)
    return estimate(technique, validate(technique.params_type, params), sizes or {}, model)


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
