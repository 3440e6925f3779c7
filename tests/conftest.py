"""Pictures and networks that many tests look at."""

from __future__ import annotations

import dataclasses
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from lantern import registry, samples
from lantern.image import Image
from lantern.records import DEFAULT_MODEL, RECORDS
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo, presented
from tests import invented as inventions

STYLES = Path(__file__).resolve().parent.parent / "model_store" / "styles"

# beside other processes of tests each has its share of the cores
BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, (os.cpu_count() or 2) // BESIDE))


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Technique]:
    """A copy of the registry, thrown away after the test."""
    copy = {found.name: found for found in registry.every()}
    monkeypatch.setattr(registry, "_techniques", copy)
    return copy


@pytest.fixture
def invented(own_registry: dict[str, registry.Technique]) -> None:
    """Techniques with slots of every kind, for as long as the test."""
    inventions.register()


@pytest.fixture
def picture() -> Image:
    """A smooth picture of 24 by 32 pixels, different in every colour and corner."""
    down = torch.linspace(0, 1, 24)[:, None].expand(24, 32)
    right = torch.linspace(0, 1, 32)[None].expand(24, 32)
    return Image(torch.stack([down, right, (1 - down) * right]))


@pytest.fixture(scope="session")
def photo() -> Image:
    """A photograph of a cat, 85 by 128 pixels."""
    return Image.decode(samples.photographs()["cat"].read_bytes()).fit(128)


@pytest.fixture(scope="session")
def model() -> VisionModel:
    """The network that is always there, with its real weights."""
    return Zoo(downloads=False).load("efficientnet-lite0")


@pytest.fixture(scope="session")
def near(model: VisionModel) -> VisionModel:
    """The same network, looking at pictures of a quarter of its usual side."""
    rec = dataclasses.replace(RECORDS[DEFAULT_MODEL], input_size=64, resize_size=72)
    return presented(rec, model.network, model.weights_sha256)


@pytest.fixture
def small_model() -> VisionModel:
    """A network of random weights and seven classes, for pictures of 32 by 32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 8, 3, padding=1),
                relu1=nn.ReLU(inplace=True),
                pool=nn.MaxPool2d(2),
                conv2=nn.Conv2d(8, 12, 3, padding=1),
                relu2=nn.ReLU(),
                gap=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                fc=nn.Linear(12, 7),
            )
        )
    return VisionModel(
        "small",
        network,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        input_size=32,
        resize_size=36,
        labels=("ant", "bee", "cat", "dog", "elk"),
        weights_sha256="0" * 64,
        style_layers=("relu1", "relu2"),
        content_layers=("conv2",),
        dream_layer="conv2",
        cam_layer="conv2",
    )


@pytest.fixture(scope="session")
def styles(model: VisionModel) -> StyleLibrary:
    """The styles that are shipped."""
    return StyleLibrary(STYLES, looker=lambda: model)
