"""Networks, pictures and captum's maps that the tests of parity share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from captum.attr import (
    LayerGradCam,
    Saliency,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from lantern.artifact import Heatmap
from lantern.image import Image
from lantern.run import run
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
