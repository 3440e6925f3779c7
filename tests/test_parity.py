"""Explanations equal those of captum and those worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam, Saliency
from torch import Tensor, nn

from lantern.artifact import Heatmap
from lantern.image import Image
from lantern.run import run
from lantern.techniques.grad_cam import class_activation
from lantern.vision_model import VisionModel

CLASSES, SIDE = 6, 40


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
    assert wanted.max() > 1e-3
    assert (field("saliency", model, image, target=target) - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("target", [None, 285])
def test_saliency_of_the_real_network_equals_captum(
    target: int | None, model: VisionModel, photo: Image
) -> None:
    image = photo.resize(224, 224)
    chosen = target if target is not None else int(model.logits(image.pixels[None]).argmax())
    wanted = captum_saliency(model, image, chosen)
    got = field("saliency", model, image, target=target)
    assert (got - wanted).abs().max() < 1e-6 * max(1.0, float(wanted.max()))


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
        return class_activation(activation, logits[0, target], layer)


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
