"""Layers that run on windows of a picture: their places are not those of the picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.presets import presets_of
from lantern.run import run
from lantern.torchvision_import import models
from lantern.vision_model import VisionModel
from lantern.work import WHOLE, survey

BLOCK = "layers.0.blocks.0"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A Swin whose first stage has four windows, the second one."""
    assert models  # timm imports torchvision
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=56, num_classes=3, depths=(2, 2),
            num_heads=(3, 6),
        )  # fmt: skip
    return made.eval()


@pytest.fixture
def windowed(network: nn.Module) -> VisionModel:
    return VisionModel(
        "windowed", network, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=56, resize_size=56,
        labels=("ant", "bee", "cat"), cam_layer="layers.1", any_size=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("grad-cam", {}),
        ("activations", {}),
        ("guided-backprop", {"rule": "vanilla"}),
        ("occlusion", {"patch": 28, "stride": 28}),
    ],
)
def test_the_block_around_is_to_be_chosen(
    name: str, params: dict[str, Any], windowed: VisionModel, photo: Image
) -> None:
    for layer in ("attn", "attn.proj", "attn.softmax"):
        given = params | {"layer": f"{BLOCK}.{layer}"}
        with pytest.raises(InvalidParameter, match="choose the block around it") as caught:
            run(name, {"image": photo}, given, model=windowed)
        assert caught.value.pointer == "/params/layer"
    around = run(name, {"image": photo}, params | {"layer": BLOCK}, model=windowed)
    assert all(artifact.is_finite() for artifact in around.artifacts)


def test_no_preset_runs_on_windows(network: nn.Module) -> None:
    facts = survey(network, 3, 56)
    assert facts[f"{BLOCK}.attn"].parts == 4
    few = {name: facts[name] for name in (f"{BLOCK}.attn", WHOLE)}
    assert presets_of(few, any_size=False).cam == ""
