"""Grad-CAM and its family equal captum's and pytorch-grad-cam's, and those worked out by hand."""

from __future__ import annotations

import cv2
import pytest
import torch
import torch.nn.functional as F
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
from lantern.checkpoint import Checkpoints
from lantern.image import Image
from lantern.progress import silent
from lantern.techniques.grad_cam import (
    BY_GRADIENT,
    BY_TRIAL,
    ablation_weights,
    class_activation,
)
from lantern.techniques.guided_backprop import rule_gradient
from lantern.techniques.trials import Trials
from lantern.vision_model import VisionModel
from tests.parity.common import (
    NETWORKS,
    SIDE,
    Functional,
    Modules,
    assert_close,
    captum_grad_cam,
    field,
    made,
    oracle,
    square,
)


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
    method: str, network: str, near: VisionModel, photo: Image
) -> None:
    if network == "real":
        own, layer, image = near, "_blocks.10", photo.resize(64, 64)
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
