"""Occlusion equals captum's for every filling, and for as many patches as there are by default."""

from __future__ import annotations

from captum.attr import Occlusion

from lantern.image import Image
from lantern.vision_model import VisionModel
from tests.parity.common import (
    SIDE,
    Functional,
    assert_close,
    blurred,
    field,
    made,
    oracle,
    square,
)


def test_a_blurred_filling_equals_captums_baseline() -> None:
    model, image = made(Functional), square(SIDE)
    wanted = Occlusion(oracle(model).logits).attribute(
        image.pixels[None], (3, 9, 9), (3, 4, 4), blurred(image), target=4
    )
    got = field(
        "occlusion", model, image, target=4, patch=9, stride=4, fill="blur", score="logit",
        evidence=0,
    )  # fmt: skip
    assert_close(got, wanted[0, 0], 1e-5)


def test_many_patches_of_the_real_network_equal_captums(model: VisionModel, photo: Image) -> None:
    image = photo.resize(224, 224)
    pixels, patch, stride = image.pixels[None], 32, 24
    plain = oracle(model)
    wanted = Occlusion(lambda x: plain.logits(x).softmax(1)).attribute(
        pixels, (3, patch, patch), (3, stride, stride), model.grey.expand_as(pixels), target=285,
        perturbations_per_eval=4,
    )  # fmt: skip
    got = field(
        "occlusion", model, image, target=285, patch=patch, stride=stride, exact=True, evidence=0
    )
    assert_close(got, wanted[0, 0], 1e-5)
