"""Explanations equal those of captum and those worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import cv2
import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    Deconvolution,
    GuidedBackprop,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmarks.peers import (
    AblationCAM,
    ClassifierOutputTarget,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
)
from lantern.artifact import Heatmap
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import silent
from lantern.relu_rule import ReluRule, Rule
from lantern.run import run
from lantern.techniques.grad_cam import (
    BY_GRADIENT,
    BY_TRIAL,
    ablation_weights,
    class_activation,
)
from lantern.techniques.guided_backprop import rule_gradient
from lantern.techniques.trials import Trials
from lantern.vision_model import VisionModel

CLASSES, SIDE = 6, 40

# captum tells whoever uses its rules for ReLUs that it will change the network
pytestmark = pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks")


class Functional(nn.Module):
    """ReLUs that are functions, max-pooling, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 5, stride=2)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.relu(x + self.b(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Reused(nn.Module):
    """One ReLU module for all layers, a batch norm, a head that is not linear in the layer."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 10, 3, stride=2)
        self.relu = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(x)))
        x = self.relu(self.b(x))
        out: Tensor = self.head(self.relu(F.adaptive_max_pool2d(x, 2).flatten(1)))
        return out


def in_place() -> nn.Module:
    return Reused(inplace=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "functional": Functional,
    "reused": Reused,
    "in-place": in_place,
}


def made(build: Callable[[], nn.Module]) -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        network = build()
    return VisionModel(
        "made", network, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), input_size=SIDE,
        resize_size=SIDE, labels=(), cam_layer="b",
    )  # fmt: skip


def oracle(model: VisionModel) -> VisionModel:
    """Return the same network without layers that write in place, for captum's sake."""
    twin = copy.deepcopy(model.network)
    for module in twin.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
    return VisionModel(
        "oracle", twin, mean=model._mean.flatten().tolist(), std=model._std.flatten().tolist(),
        input_size=model.input_size, resize_size=model.resize_size, labels=(),
    )  # fmt: skip


def square(side: int) -> Image:
    """Return a picture of just the network's size, so that nothing is resampled."""
    return Image(torch.rand(3, side, side, generator=torch.Generator().manual_seed(4)))


def field(name: str, model: VisionModel, image: Image, **params: object) -> Tensor:
    artifact = run(name, {"image": image}, params, model=model).principal
    assert isinstance(artifact, Heatmap)
    return artifact.values


def blurred(image: Image) -> Tensor:
    """Return the pixels `[1,3,S,S]` blurred as what is to say nothing, by other code."""
    sigma = 12 * image.width / 224
    levels = gaussian_filter(
        image.pixels.double().numpy(), (0, sigma, sigma), mode="mirror", radius=math.ceil(3 * sigma)
    )
    return torch.from_numpy(levels).float()[None]


def captum_saliency(model: VisionModel, image: Image, target: int) -> Tensor:
    pixels = image.pixels[None].clone().requires_grad_()
    gradient: Tensor = Saliency(model.logits).attribute(pixels, target=target, abs=True)
    return gradient[0].amax(0).detach()


def captum_grad_cam(model: VisionModel, image: Image, target: int, layer: str) -> Tensor:
    pixels = image.pixels[None].clone().requires_grad_()
    method = LayerGradCam(model.logits, model.layer(layer))
    cam: Tensor = method.attribute(pixels, target=target, relu_attributions=False)
    return cam[0, 0].detach()


def assert_close(got: Tensor, wanted: Tensor, relative: float) -> None:
    assert wanted.abs().max() > 0
    assert (got - wanted).abs().max() <= relative * wanted.abs().max()


# --- Saliency ----------------------------------------------------------------------------------


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


# --- Grad-CAM ----------------------------------------------------------------------------------


def raw_map(model: VisionModel, image: Image, target: int, layer: str) -> Tensor:
    with model.tail(layer) as tail:
        activation, logits = tail(image.pixels[None])
        (gradient,) = torch.autograd.grad(logits[0, target], activation)
    return class_activation(activation.detach(), gradient)


@pytest.mark.parametrize("layer", ["a", "b"])
@pytest.mark.parametrize("network", NETWORKS)
def test_grad_cam_equals_captum(network: str, layer: str) -> None:
    model, image = made(NETWORKS[network]), square(SIDE)
    for target in (0, 3):
        wanted = captum_grad_cam(oracle(model), image, target, layer)
        assert_close(raw_map(model, image, target, layer), wanted, 1e-5)


@pytest.mark.parametrize("layer", ["_conv_head", "_blocks.10", "_blocks.3"])
def test_grad_cam_of_the_real_network_equals_captum(
    layer: str, model: VisionModel, photo: Image
) -> None:
    image = photo.resize(224, 224)
    wanted = captum_grad_cam(oracle(model), image, 285, layer)
    assert_close(raw_map(model, image, 285, layer), wanted, 1e-5)


def test_the_map_over_the_picture_is_the_raw_one_enlarged(model: VisionModel, photo: Image) -> None:
    square_photo = photo.resize(224, 224)
    raw = captum_grad_cam(oracle(model), square_photo, 1, "_conv_head")
    for relu, wanted in ((False, raw), (True, raw.relu())):
        enlarged = F.interpolate(wanted[None, None], size=(224, 224), mode="bilinear")[0, 0]
        got = field("grad-cam", model, square_photo, target=1, relu=relu)
        assert_close(got, enlarged, 1e-5)
    assert raw.min() < 0


def test_maps_of_early_layers_are_those_of_the_plain_network(
    model: VisionModel, photo: Image
) -> None:
    image, layer = photo.resize(224, 224), "_blocks.3"
    raw = captum_grad_cam(oracle(model), image, 285, layer)
    wanted = F.interpolate(raw[None, None], size=(224, 224), mode="bilinear")[0, 0]
    got = field("grad-cam", model, image, target=285, layer=layer, relu=False, evidence=0)
    assert_close(got, wanted, 1e-5)


def test_grad_cam_of_a_pooled_linear_head_is_the_class_activation_map() -> None:
    model, image = made(Functional), square(SIDE)
    layered = made(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)
        )
    )
    head = layered.layer("4")
    assert isinstance(head, nn.Linear)
    with layered.capture(["1"]) as features:
        activation = features(image.pixels[None])["1"][0]
    cam = torch.einsum("c,chw->hw", head.weight[2], activation) / activation[0].numel()
    assert_close(raw_map(layered, image, 2, "1"), cam, 1e-5)
    # its mean is the logit, less the bias: nothing is lost
    logit = layered.logits(image.pixels[None])[0, 2]
    assert float(cam.sum()) == pytest.approx(float(logit - head.bias[2]), rel=1e-4)
    assert model.cam_layer == "b"


# --- Rules for ReLUs ---------------------------------------------------------------------------


class Modules(nn.Module):
    """The functional network with a ReLU module in each place, which captum can see."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 5, stride=2)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(self.a(x)), 2)
        x = self.second(x + self.b(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class FunctionalInPlace(Functional):
    """The same, each ReLU a function that writes over what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x), inplace=True)
        x = F.max_pool2d(x, 2)
        x = x + self.b(x)
        torch.relu_(x)  # what it returns is not looked at
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Sixes(Functional):
    """The same with ReLU6 in its two ways of being written."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu6(8 * self.a(x)), 2)
        x = F.hardtanh(8 * (x + self.b(x)), 0.0, 6.0)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def by_captum(rule: str, network: nn.Module, image: Image, target: int) -> Tensor:
    method = {"guided": GuidedBackprop, "deconvnet": Deconvolution}[rule](network)
    given = (image.pixels[None] - MEAN) / STD
    gradient: Tensor = method.attribute(given.requires_grad_(), target=target)
    return (gradient / STD)[0].detach()


MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("network", [Modules, Functional, FunctionalInPlace])
def test_rules_reach_every_way_of_writing_a_relu(network: type[nn.Module], rule: Rule) -> None:
    image = square(SIDE)
    wanted = by_captum(rule, made(Modules).network, image, 3)
    plain = rule_gradient(made(network), image.pixels[None], 3, "vanilla")[0]
    got, *_ = rule_gradient(made(network), image.pixels[None], 3, rule)
    assert_close(got, wanted, 1e-5)
    assert (got - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("network", [Reused, in_place])
def test_rules_reach_a_relu_that_is_used_again(
    network: Callable[[], nn.Module], rule: Rule
) -> None:
    class Apart(Reused):
        """The reused network with ReLUs of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.relus[0](self.norm(self.a(x)))
            x = self.relus[1](self.b(x))
            out: Tensor = self.head(self.relus[2](F.adaptive_max_pool2d(x, 2).flatten(1)))
            return out

    image = square(SIDE)
    wanted = by_captum(rule, made(Apart).network, image, 2)
    got, *_ = rule_gradient(made(network), image.pixels[None], 2, rule)
    assert_close(got, wanted, 1e-5)


def test_rules_reach_relu6() -> None:
    model, image = made(Sixes), square(SIDE)
    leaf = image.pixels[None].clone().requires_grad_()
    (plain,) = torch.autograd.grad(model.logits(leaf)[0, 1], leaf)
    got, *_ = rule_gradient(model, image.pixels[None], 1, "vanilla")
    assert_close(got, plain[0], 1e-6)
    with ReluRule("guided") as reached:
        model.logits(image.pixels[None])
    assert reached.reached == 2
    guided, *_ = rule_gradient(model, image.pixels[None], 1, "guided")
    assert (guided - got).abs().max() > 0.1 * got.abs().max()


def test_the_rule_vanilla_on_the_real_network_is_the_gradient(
    model: VisionModel, photo: Image
) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    leaf = pixels.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model.logits(leaf)[0, 285], leaf)
    got, *_ = rule_gradient(model, pixels, 285, "vanilla")
    assert_close(got, plain[0], 1e-5)


def test_rules_of_the_real_network_equal_captums(model: VisionModel, photo: Image) -> None:
    # captum knows no ReLU6; below six it is a ReLU, so the twin may have these instead
    twin = oracle(model)
    swap_relus(twin.network)
    own = model.copy()
    swap_relus(own.network)
    image = photo.resize(224, 224)
    leaf = image.pixels[None].clone()
    for rule, method in (("guided", GuidedBackprop), ("deconvnet", Deconvolution)):
        network = Normalised(twin)
        wanted = method(network).attribute(leaf.clone().requires_grad_(), target=285)[0].detach()
        got, *_ = rule_gradient(own, leaf, 285, cast(Rule, rule))
        assert_close(got, wanted, 1e-5)


class Normalised(nn.Module):
    """A model with its normalisation, as one module."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.network, self.model = model.network, model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits(x)


def swap_relus(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(network, name, nn.ReLU())
        else:
            swap_relus(child)


# --- Integrated gradients, SmoothGrad, occlusion -----------------------------------------------


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


# --- The family of Grad-CAM --------------------------------------------------------------------

PEERS = {
    "grad-cam": GradCAM,
    "grad-cam++": GradCAMPlusPlus,
    "hires-cam": HiResCAM,
    "layer-cam": LayerCAM,
    "score-cam": ScoreCAM,
    "ablation-cam": AblationCAM,
}


def peer_map(method: str, model: VisionModel, image: Image, target: int, layer: str) -> Tensor:
    """Return pytorch-grad-cam's map, scaled to 0..1 before and after it is enlarged."""
    # it wants gradients for all weights, and masks that cover with what is zero to the network
    network = model.network.requires_grad_(True)
    given = (image.pixels[None] - model.grey) / model.scale
    with PEERS[method](model=network, target_layers=[model.layer(layer)]) as cam:
        cam.batch_size = 16
        found = cam(input_tensor=given, targets=[ClassifierOutputTarget(target)])
    return torch.from_numpy(found[0])


def own_map(method: str, model: VisionModel, image: Image, target: int, layer: str) -> Tensor:
    """Return our map of the layer's grid, scaled and enlarged as the peer does."""
    pixels = image.pixels[None]
    with model.tail(layer) as tail:
        activation, logits = tail(pixels)
        (gradient,) = torch.autograd.grad(logits[0, target], activation)
    activation = activation.detach()
    if method in BY_GRADIENT:
        field = BY_GRADIENT[method](activation, gradient)
    else:
        weigh, _ = BY_TRIAL[method]
        every = list(range(activation.shape[1]))
        weights = weigh(model, pixels, activation, every, target, layer, untold())
        if method == "ablation-cam":
            # the peer divides by the score, also by a negative one
            weights = weights * logits[0, target].detach().sign()
        field = torch.einsum("k,khw->hw", weights, activation[0])
    large = cv2.resize(scaled(field.relu()).numpy(), image.pixels.shape[:0:-1])
    return scaled(torch.from_numpy(large))


def untold() -> Trials[int]:
    """Return what goes through channels where nobody watches."""
    return Trials(silent, Checkpoints(), 1, 16, lambda _: square(SIDE), [])


def scaled(field: Tensor) -> Tensor:
    field = field - field.min()
    return field / (1e-7 + field.max())


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("network", ["modules", "negative", "real"])
def test_the_family_equals_pytorch_grad_cam(
    method: str, network: str, model: VisionModel, photo: Image
) -> None:
    if network == "real":
        own, layer, image = model, "_blocks.10", photo.resize(224, 224)
    else:
        own, layer, image = made(Modules), "second", square(SIDE)
    scores = own.logits(image.pixels[None])[0]
    target = int(scores.argmin() if network == "negative" else scores.argmax())
    if method == "ablation-cam" and network == "real":
        pytest.skip("it fills channels that may be negative with another value than zero")
    wanted = peer_map(method, oracle(own), image, target, layer)
    assert_close(own_map(method, own, image, target, layer), wanted, 1e-5)


def test_ablation_by_the_tail_alone_equals_whole_passes(model: VisionModel, photo: Image) -> None:
    pixels, layer = photo.resize(224, 224).pixels[None], "_blocks.10"
    tried = [0, 5, 9]
    with torch.inference_mode(), model.capture([layer]) as features:
        activation = features(pixels)[layer].clone()
    got = ablation_weights(model, pixels, activation, tried, 285, layer, untold())
    whole = float(model.logits(pixels)[0, 285])
    for number, channel in enumerate(tried):

        def ablate(module: nn.Module, inputs: object, output: Tensor, k: int = channel) -> Tensor:
            output = output.clone()
            output[:, k] = 0
            return output

        handle = model.layer(layer).register_forward_hook(ablate)
        try:
            without = float(model.logits(pixels)[0, 285])
        finally:
            handle.remove()
        assert float(got[number]) == pytest.approx((whole - without) / abs(whole), abs=1e-5)


@pytest.mark.parametrize("is_negative", [False, True])
def test_ablation_weighs_channels_with_the_sign_of_their_gradient(is_negative: bool) -> None:
    model, image = made(Modules), square(SIDE)
    scores = model.logits(image.pixels[None])[0]
    target = int(scores.argmin() if is_negative else scores.argmax())
    assert (float(scores[target]) < 0) == is_negative
    with model.tail("second") as tail:
        activation, logits = tail(image.pixels[None])
        (gradient,) = torch.autograd.grad(logits[0, target], activation)
    pixels, activation = image.pixels[None], activation.detach()
    every = list(range(activation.shape[1]))
    got = ablation_weights(model, pixels, activation, every, target, "second", untold())
    # the head pools and is linear: a channel gives the score just what its gradient says
    gives = (gradient * activation).sum((0, 2, 3))
    assert_close(got, gives / scores[target].detach().abs(), 1e-4)


def test_guided_grad_cam_is_the_product(model: VisionModel, photo: Image) -> None:
    image = photo.resize(224, 224)
    cam = field("grad-cam", model, image, target=285)
    fine, *_ = rule_gradient(model, image.pixels[None], 285, "guided")
    both = field("grad-cam", model, image, target=285, method="guided-grad-cam")
    assert_close(both, cam * fine.abs().amax(0), 1e-5)
