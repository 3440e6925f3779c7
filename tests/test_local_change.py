"""Logits of small changes by crops are those of whole pictures."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.image import Image
from lantern.local_change import LocalChange, covered
from lantern.patches import patches
from lantern.vision_model import VisionModel

SIDE = 128


class Deep(nn.Module):
    """Costly early, cheap late."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.c = nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.d = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Around(Deep):
    """Has a path around the layers that could be cut."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.b(F.relu(self.a(x))))
        y = y + F.avg_pool2d(x, 2).mean(1, keepdim=True)
        y = F.relu(self.d(F.relu(self.c(y)) + F.avg_pool2d(x, 4).mean(1, keepdim=True)))
        out: Tensor = self.head(y.mean((2, 3)) + x.mean((1, 2, 3))[:, None])
        return out


class Normed(Deep):
    """Looks at the whole picture from its first layer on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean((1, 2, 3), keepdim=True))


class Evened(Deep):
    """The same, in a way that following receptive fields does not show."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.sum((1, 2, 3), keepdim=True) / x[0].numel())


class Unpadded(Deep):
    """Loses a border at each layer, so that its maps do not lie on the picture's grid."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.a, self.b, self.c):
            layer.padding = (0, 0)


def made(network: type[nn.Module]) -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = network()
    return VisionModel(
        "made", built, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=SIDE, resize_size=SIDE,
        labels=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "is_cut"),
    [(Deep, True), (Unpadded, True), (Around, False), (Normed, False), (Evened, False)],
)
def test_a_cut_is_made_only_where_the_numbers_are_the_same(
    network: type[nn.Module], is_cut: bool
) -> None:
    model = made(network)
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    filling = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    boxes = patches(SIDE, 16, 12)
    local = LocalChange(model, pixels, boxes)
    assert bool(local.layers) == is_cut
    with torch.inference_mode():
        wanted = model.logits(covered(pixels, filling, boxes))
        plain = model.logits(pixels)
    found = local.logits(filling, boxes)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (wanted - plain).abs().max() > 1e-4


@pytest.mark.parametrize("network", [Deep, Unpadded, Around, Normed, Evened])
def test_the_first_picture_does_not_choose_the_layer(network: type[nn.Module]) -> None:
    boxes, chance = patches(SIDE, 16, 12), torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, SIDE, SIDE, generator=chance)
    even = torch.full((1, 3, SIDE, SIDE), 0.3)
    filling = torch.rand(1, 3, SIDE, SIDE, generator=chance)
    # a symmetric picture turned upside down is the same picture
    symmetric = (noise + noise.flip(2, 3)) / 2
    first, *others = (
        LocalChange(made(network), each, boxes).layers for each in (noise, even, symmetric)
    )
    assert others == [first, first]
    model = made(network)
    LocalChange(model, even, boxes)
    with torch.inference_mode():
        wanted = model.logits(covered(noise, filling, boxes))
    found = LocalChange(model, noise, boxes).logits(filling, boxes)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_real_network_is_cut(model: VisionModel, photo: Image) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    grey = model.grey.expand_as(pixels)
    boxes = patches(224, 32, 40)  # corners and the border too
    local = LocalChange(model, pixels, boxes)
    assert len(local.layers) > 1  # crops that grow
    assert LocalChange(model, pixels, boxes[:3]).layers == []  # not worth the search
    with torch.inference_mode():
        wanted = model.logits(covered(pixels, grey, boxes))
    passed: list[str] = []
    late = local.network.get_submodule("_blocks.15")
    with late.register_forward_hook(lambda *_: passed.append("late")):
        found = local.logits(grey, boxes)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert len(passed) == -(-len(boxes) // 16)  # once for each batch


def test_the_network_that_is_run_makes_the_same_bits(model: VisionModel, photo: Image) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    local = LocalChange(model, pixels, patches(224, 32, 40))
    with torch.inference_mode():
        for some in (pixels, pixels.repeat(5, 1, 1, 1) * torch.linspace(0, 1, 5).view(5, 1, 1, 1)):
            assert torch.equal(local.network(model.prepared(some)), model.logits(some))


def test_boxes_of_any_size_lie_anywhere(model: VisionModel, photo: Image) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    filling = pixels.flip(3)
    chance = random.Random(0)
    sides = [(chance.randint(1, 24), chance.randint(1, 24)) for _ in range(30)]
    corners = [(chance.randint(0, 224 - h), chance.randint(0, 224 - w)) for h, w in sides]
    boxes = [(y, y + h, x, x + w) for (y, x), (h, w) in zip(corners, sides, strict=True)]
    boxes += [(0, 1, 223, 224), (200, 224, 200, 224), (5, 29, 0, 24)]
    with torch.inference_mode():
        wanted = torch.cat([model.logits(covered(pixels, filling, [box])) for box in boxes])
    found = LocalChange(model, pixels, boxes).logits(filling, boxes)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_patch_as_large_as_the_picture_is_no_small_change(
    model: VisionModel, photo: Image
) -> None:
    pixels = photo.resize(224, 224).pixels[None]
    assert LocalChange(model, pixels, [(0, 224, 0, 224)]).layers == []
