"""Integrated gradients, SmoothGrad and occlusion equal captum's."""

from __future__ import annotations

import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
)

from lantern.artifact import Heatmap
from lantern.image import Image
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.parity.common import (
    NETWORKS,
    SIDE,
    Functional,
    Reused,
    assert_close,
    blurred,
    field,
    made,
    oracle,
    square,
)


@pytest.mark.parametrize("baseline", ["grey", "black", "white", "blur"])
@pytest.mark.parametrize("network", NETWORKS)
def test_integrated_gradients_equal_captums(network: str, baseline: str) -> None:
    model, image = made(NETWORKS[network]), square(SIDE)
    nothing = {
        "grey": model.grey.expand(1, 3, SIDE, SIDE),
        "black": torch.zeros(1, 3, SIDE, SIDE),
        "white": torch.ones(1, 3, SIDE, SIDE),
        "blur": blurred(image),
    }[baseline]
    method = IntegratedGradients(oracle(model).logits)
    wanted = method.attribute(
        image.pixels[None], nothing, target=2, n_steps=50, method="gausslegendre"
    )
    got = field(
        "integrated-gradients", model, image, target=2, steps=50, gap=1.0, exact=True,
        baseline=baseline,
    )  # fmt: skip
    assert_close(got, wanted[0].sum(0).float(), 1e-5)


def test_integrated_gradients_of_the_real_network_equal_captums(
    model: VisionModel, photo: Image
) -> None:
    image = photo.resize(224, 224)
    black = torch.zeros(1, 3, 224, 224)
    wanted = IntegratedGradients(oracle(model).logits).attribute(
        image.pixels[None], black, target=285, n_steps=16, internal_batch_size=8
    )
    got = field(
        "integrated-gradients",
        model,
        image,
        target=285,
        steps=16,
        gap=1.0,
        baseline="black",
        exact=True,
    )
    assert_close(got, wanted[0].sum(0).float(), 1e-5)


@pytest.mark.parametrize(
    ("name", "more", "finer"),
    [
        ("integrated-gradients", {"steps": 10, "gap": 1.0}, {"steps": 20}),
        ("saliency", {"method": "smooth-grad", "reduce": "signed", "samples": 4}, {"samples": 8}),
    ],
)
def test_quicker_arithmetic_moves_a_mean_by_less_than_more_gradients_do(
    name: str, more: dict[str, object], finer: dict[str, object], model: VisionModel, photo: Image
) -> None:
    image = photo.resize(224, 224)
    given = {"target": 285, **more}
    exact = field(name, model, image, **given, exact=True)
    quick = field(name, model, image, **given)
    other = field(name, model, image, **(given | finer), exact=True)
    assert not torch.equal(quick, exact)
    assert (quick - exact).norm() < 0.25 * (other - exact).norm()


def test_points_are_doubled_until_the_shares_add_up(model: VisionModel, photo: Image) -> None:
    image = photo.resize(224, 224)
    given = {"target": 285, "steps": 4, "evidence": 0}
    facts = [
        run("integrated-gradients", {"image": image}, given | {"gap": gap}, model=model).facts
        for gap in (1.0, 0.15)
    ]
    rough, fine = (entry["completeness"] for entry in facts)
    assert rough["steps"] == 4
    assert fine["steps"] > 4
    assert fine["gap"] <= 0.15 < rough["gap"]
    assert fine["sum"] == pytest.approx(fine["change"], rel=0.151)


def test_the_shares_add_up_or_it_is_said(model: VisionModel, photo: Image) -> None:
    given = {"evidence": 0, "most_steps": 50}  # as many as it begins with: more take their time
    facts = run("integrated-gradients", {"image": photo}, given, model=model).facts
    is_wide = facts["completeness"]["gap"] > 0.01
    assert is_wide == any("most_steps" in warning for warning in facts.get("warnings", ()))


@pytest.mark.parametrize(("gap", "is_said"), [(1.0, False), (1e-6, True)])
def test_a_gap_that_stays_is_warned_of(gap: float, is_said: bool) -> None:
    given = {"steps": 2, "most_steps": 4, "gap": gap}
    facts = run("integrated-gradients", {"image": square(SIDE)}, given, model=made(Reused)).facts
    assert any("most_steps" in warning for warning in facts.get("warnings", ())) == is_said


def test_smooth_grad_of_the_same_noise_equals_captums() -> None:
    model, image = made(Functional), square(SIDE)
    spread = 0.2 * float(image.pixels.max() - image.pixels.min())
    noise = torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    copies = image.pixels[None] + spread * noise
    gradients = Saliency(oracle(model).logits).attribute(
        copies.requires_grad_(), target=2, abs=False
    )
    given = {"target": 2, "samples": 6, "noise": 0.2, "reduce": "signed", "evidence": 0,
             "exact": True}  # fmt: skip
    for method, wanted in (
        ("smooth-grad", gradients.mean(0)),
        ("var-grad", gradients.var(0, correction=0)),
    ):
        got = run("saliency", {"image": image}, given | {"method": method}, model=model, seed=7)
        assert isinstance(got.principal, Heatmap)
        assert_close(got.principal.values, wanted.sum(0), 1e-5)


def test_smooth_grad_comes_nearer_to_captums_with_more_copies() -> None:
    model, image = made(Functional), square(SIDE)
    spread = 0.15 * float(image.pixels.max() - image.pixels.min())
    torch.manual_seed(0)
    wanted = NoiseTunnel(Saliency(oracle(model).logits)).attribute(
        image.pixels[None].clone(), nt_samples=400, nt_samples_batch_size=40, stdevs=spread,
        target=2, abs=False,
    )[0].sum(0)  # fmt: skip
    errors = [
        (
            field(
                "saliency", model, image, target=2, method="smooth-grad", reduce="signed",
                samples=samples,
            )
            - wanted
        ).abs().mean()
        for samples in (4, 200)
    ]  # fmt: skip
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize(("patch", "stride"), [(8, 8), (9, 4), (7, 5), (40, 3)])
@pytest.mark.parametrize("fill", ["grey", "black", "mean"])
def test_occlusion_equals_captums(patch: int, stride: int, fill: str) -> None:
    model, image = made(Functional), square(SIDE)
    pixels = image.pixels[None]
    level = {
        "grey": model.grey, "black": torch.zeros(1, 3, 1, 1),
        "mean": pixels.mean((2, 3), keepdim=True),
    }[fill]  # fmt: skip
    wanted = Occlusion(oracle(model).logits).attribute(
        pixels, (3, patch, patch), (3, stride, stride), level.expand_as(pixels), target=4
    )
    got = field(
        "occlusion", model, image, target=4, patch=patch, stride=stride, fill=fill, score="logit"
    )
    assert_close(got, wanted[0, 0], 1e-5)


def test_occlusion_of_the_real_network_equals_captums(model: VisionModel, photo: Image) -> None:
    image = photo.resize(224, 224)
    pixels = image.pixels[None]
    wanted = Occlusion(lambda x: oracle(model).logits(x).softmax(1)).attribute(
        pixels, (3, 64, 64), (3, 48, 48), model.grey.expand_as(pixels), target=285,
        perturbations_per_eval=8,
    )  # fmt: skip
    got = field("occlusion", model, image, target=285, patch=64, stride=48)
    # a map is what is left of two scores, so their rounding counts: captum's own maps of another
    # batch size are as far apart
    score = model.logits(pixels).softmax(1)[0, 285]
    assert (got - wanted[0, 0]).abs().max() <= 1e-5 * score
