"""Gradients equal those of captum, and those worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lantern.image import Image
from lantern.vision_model import VisionModel
from tests.parity.common import (
    CLASSES,
    NETWORKS,
    SIDE,
    Reused,
    assert_close,
    captum_saliency,
    field,
    made,
    oracle,
    square,
)


@pytest.mark.parametrize("target", [0, 5])
@pytest.mark.parametrize("network", NETWORKS)
def test_saliency_equals_captum(network: str, target: int) -> None:
    model, image = made(NETWORKS[network]), square(SIDE)
    wanted = captum_saliency(oracle(model), image, target)
    assert_close(field("saliency", model, image, target=target), wanted, 1e-5)


@pytest.mark.parametrize("target", [None, 285])
def test_saliency_of_the_real_network_equals_captum(
    target: int | None, model: VisionModel, photo: Image
) -> None:
    image = photo.resize(224, 224)
    chosen = target if target is not None else int(model.logits(image.pixels[None]).argmax())
    wanted = captum_saliency(model, image, chosen)
    assert_close(field("saliency", model, image, target=target), wanted, 1e-5)


@pytest.mark.parametrize("target", range(CLASSES))
def test_saliency_of_a_linear_model_is_its_weights(target: int) -> None:
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)))
    linear = model.layer("1")
    assert isinstance(linear, nn.Linear)
    # in units of 0..1 pixels: the normalisation inside divides by the deviation
    weights = linear.weight[target].view(3, SIDE, SIDE) / torch.tensor((0.2, 0.3, 0.25)).view(
        3, 1, 1
    )
    image = square(SIDE)
    by_hand = {
        "abs-max": weights.abs().amax(0),
        "signed": weights.sum(0),
        "gradient-x-input": (weights * image.pixels).sum(0),
    }
    for reduce, wanted in by_hand.items():
        got = field("saliency", model, image, target=target, reduce=reduce)
        assert torch.allclose(got, wanted, atol=1e-6)


def test_saliency_is_what_small_changes_do() -> None:
    model, image = made(Reused), square(SIDE)
    model.network.double()
    model._mean, model._std = model._mean.double(), model._std.double()
    pixels = image.pixels.double()
    gradient = field("saliency", model, Image(pixels), target=1, reduce="signed")
    chance = torch.Generator().manual_seed(1)
    for row, column in torch.randint(0, SIDE, (20, 2), generator=chance).tolist():
        scores = []
        for change in (1e-5, -1e-5):
            moved = pixels.clone()
            moved[:, row, column] += change
            scores.append(float(model.logits(moved[None])[0, 1]))
        difference = (scores[0] - scores[1]) / 2e-5
        assert float(gradient[row, column]) == pytest.approx(difference, rel=0.01, abs=1e-7)
