"""What is said of layers is what the networks do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.layers import Layer, layers, necks
from lantern.records import RECORDS, Record, record
from lantern.vision_model import SHORTEST, VisionModel


class Branches(nn.Module):
    """Branches, joins, skips, dilation, strides, functional and in-place layers, padded by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 5, stride=2, padding=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.skip = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(8, 4, 3)
        self.gate = nn.Linear(4, 4)
        self.gated = nn.Identity()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.stem(x)))
        x = torch.cat([self.narrow(x), F.relu(self.wide(x))], dim=1)
        x = self.relu(x + self.skip(x))
        x = F.avg_pool2d(x, 2, stride=1)
        x = self.out(F.pad(x, (1, 1, 1, 1)))
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        x = self.gated(x * gate[:, :, None, None])
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def small_record(build: Callable[[], nn.Module]) -> Record:
    return Record(
        name="small",
        build=build,
        weights_path=lambda: Path("nowhere"),
        weights_url=None,
        licence="",
        mean=(0, 0, 0),
        std=(1, 1, 1),
        cam_layer="",
        dream_layer="",
        style_layers=(),
        content_layers=(),
        input_size=96,
    )


def measured(network: nn.Module, name: str) -> tuple[int, int, int]:
    """Measure receptive field, stride and offset by what a layer's middle units depend on."""
    for parameter in network.parameters():  # all positive, so that nothing cancels or dies
        parameter.data.abs_().add_(0.01)
    seen: list[Tensor] = []
    handle = dict(network.named_modules())[name].register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    pixels = torch.rand(1, 3, 96, 96).add_(0.1).requires_grad_()
    network(pixels)
    handle.remove()
    middle = seen[0].shape[-1] // 2
    boxes = [columns(seen[0][0, :, middle, at].sum(), pixels) for at in (middle, middle + 1)]
    assert len({last - first for first, last in boxes}) == 1
    stride = boxes[1][0] - boxes[0][0]
    return boxes[0][1] - boxes[0][0] + 1, stride, boxes[0][0] - middle * stride


def columns(unit: Tensor, pixels: Tensor) -> tuple[int, int]:
    (gradient,) = torch.autograd.grad(unit, pixels, retain_graph=True)
    used = gradient[0].abs().sum((0, 1)).nonzero()[:, 0].tolist()
    return min(used), max(used)


@functools.cache
def of(name: str) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(record(name))}


@pytest.mark.parametrize("name", "stem pool narrow wide skip out".split())
def test_receptive_fields_are_what_gradients_say(name: str) -> None:
    torch.manual_seed(0)
    (layer,) = (found for found in layers(small_record(Branches)) if found.name == name)
    assert (layer.receptive_field, layer.stride, layer.offset) == measured(Branches(), name)


def test_what_is_pooled_over_all_or_gated_by_it_sees_the_whole_picture() -> None:
    found = {layer.name: layer for layer in layers(small_record(Branches))}
    for name in ("gate", "gated", "head"):
        assert found[name].receptive_field is None
        assert found[name].stride is None
    assert found["gated"].shape == (4, 23, 23)


class Paths(nn.Module):
    """A path around two layers, one through a layer that passes on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.same, self.late = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.third(self.second(self.same(x)))
        out: Tensor = self.late(x + y)
        return out


def test_necks_are_the_layers_that_no_path_leads_around() -> None:
    found = necks(Paths(), torch.rand(1, 3, 8, 8))
    assert [layer.name for layer in found] == ["first"]


def test_layers_are_listed_in_the_order_they_run() -> None:
    names = [layer.name for layer in layers(small_record(Branches))]
    assert names == "stem relu pool narrow wide skip out gate gated head".split()


def test_listing_leaves_no_memory_filled() -> None:
    # built on the meta device: a network of 550 MB costs nothing
    assert layers(record("vgg16"))[0].shape == (64, 224, 224)


@pytest.mark.parametrize(
    ("network", "name", "shape", "field", "stride"),
    [
        # first layers by hand; SqueezeNet 1.0's last Fire module: 7, +2*2 (pool), 3 Fires of
        # +2*4, pool +2*4, 4 Fires of +2*8, pool +2*8, one Fire of +2*16
        ("squeezenet1-0", "features.0", (96, 109, 109), 7, 2),
        ("squeezenet1-0", "features.2", (96, 54, 54), 11, 4),
        ("squeezenet1-0", "features.5", (256, 54, 54), 35, 4),
        ("squeezenet1-0", "features.6", (256, 27, 27), 43, 8),
        ("squeezenet1-0", "features.10", (512, 27, 27), 107, 8),
        ("squeezenet1-0", "features.12", (512, 13, 13), 155, 16),
        ("squeezenet1-1", "features.0", (64, 111, 111), 3, 2),
        ("efficientnet-lite0", "_conv_stem", (32, 112, 112), 3, 2),
        ("efficientnet-lite0", "_blocks.0", (16, 112, 112), 7, 2),
        ("efficientnet-lite0", "_blocks.1", (24, 56, 56), 11, 4),
        ("efficientnet-lite0", "_conv_head", (1280, 7, 7), 851, 32),
        ("alexnet", "features.10", (256, 13, 13), 163, 16),  # Araujo et al. 2019, table
        ("vgg16", "features.28", (512, 14, 14), 196, 16),
        ("vgg16", "features.30", (512, 7, 7), 212, 32),
        # 7, +4 (pool), 3 blocks of +8, 1 of +8 and 3 of +16, 1 of +16 and 5 of +32, 1 of +32 and
        # 2 of +64; strides are in the 3x3 convolution of a stage's first block
        ("resnet50", "layer4", (2048, 7, 7), 427, 32),
        ("resnet101", "layer4", (2048, 7, 7), 427 + 17 * 32, 32),
    ],
)
def test_known_numbers(
    network: str, name: str, shape: tuple[int, ...], field: int, stride: int
) -> None:
    layer = of(network)[name]
    assert (layer.shape, layer.receptive_field, layer.stride) == (shape, field, stride)


def test_the_last_layers_see_everything() -> None:
    assert of("squeezenet1-0")["classifier"].receptive_field is None
    assert of("efficientnet-lite0")["_fc"].shape == (1000,)


@pytest.mark.parametrize("name", RECORDS)
def test_the_presets_of_every_network_run_and_have_rows_and_columns(name: str) -> None:
    rec, found = record(name), of(name)
    presets = {rec.cam_layer, rec.dream_layer, *rec.style_layers, *rec.content_layers}
    assert presets <= found.keys()
    assert {len(found[preset].shape) for preset in presets} == {3}
    order = list(found)
    style = [order.index(layer) for layer in rec.style_layers]
    assert style == sorted(style)


@pytest.mark.parametrize("name", RECORDS)
def test_no_preset_is_written_over_by_an_in_place_layer_after_it(name: str) -> None:
    rec = record(name)
    with torch.device("meta"):
        network = rec.build().eval()
        pixels = torch.empty(1, 3, rec.input_size, rec.input_size)
    captured: dict[str, tuple[Tensor, int]] = {}

    def watch(layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            captured.setdefault(layer, (output, output._version))

        return hook

    modules = dict(network.named_modules())
    for preset in {*rec.style_layers, *rec.content_layers}:  # these are captured together
        modules[preset].register_forward_hook(watch(preset))
    with torch.no_grad():
        network(pixels)
    assert {layer for layer, (kept, before) in captured.items() if kept._version != before} == set()


@pytest.mark.parametrize("name", RECORDS)
def test_presets_can_be_computed_of_the_smallest_picture(name: str) -> None:
    rec = record(name)
    if not rec.any_size:
        pytest.skip("it takes pictures of one size alone")
    with torch.device("meta"):
        network = rec.build()
    seeing = VisionModel(
        name, network, mean=rec.mean, std=rec.std, input_size=SHORTEST, resize_size=SHORTEST,
        labels=(),
    ).to("meta")  # fmt: skip
    presets = {rec.dream_layer, *rec.style_layers, *rec.content_layers}
    with seeing.capture(list(presets)) as features:
        seen = features(torch.empty(1, 3, SHORTEST, SHORTEST, device="meta"))
    assert seen.keys() == presets
    assert all(0 not in activation.shape for activation in seen.values())


def test_a_layer_is_plain_data() -> None:
    assert of("squeezenet1-0")["features.2"].document() == {
        "name": "features.2",
        "type": "MaxPool2d",
        "shape": [96, 54, 54],
        "receptive_field": 11,
        "stride": 4,
        "offset": 0,
    }
