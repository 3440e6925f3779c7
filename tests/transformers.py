"""Small vision transformers of random weights."""

from __future__ import annotations

import torch
from torch import nn

from lantern.torchvision_import import models
from lantern.vision_model import VisionModel


def tiny_vit(layers: int = 3) -> VisionModel:
    """Return a ViT of 16 patches and a class token, for pictures of 32 by 32 pixels."""
    return _shown(
        "tiny-vit",
        lambda: models.vision_transformer.VisionTransformer(
            image_size=32, patch_size=8, num_layers=layers, num_heads=2, hidden_dim=16,
            mlp_dim=32, num_classes=5,
        ),
        "encoder.layers.encoder_layer_1",
    )  # fmt: skip


def tiny_swin() -> VisionModel:
    """Return a Swin of two stages of two layers, the second of them with shifted windows."""
    return _shown(
        "tiny-swin",
        lambda: models.swin_transformer.SwinTransformer(
            patch_size=[4, 4], embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            num_classes=5,
        ),
        "features.3",
    )  # fmt: skip


def _shown(name: str, build: object, layer: str) -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert callable(build)
        network: nn.Module = build()
        for value in network.parameters():  # heads begin at zero, attention nearly even
            value.data = torch.randn_like(value) * (0.4 if value.dim() > 1 else 0.1) + (
                0.0 if value.dim() > 1 else value.data
            )
    return VisionModel(
        name, network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), input_size=32, resize_size=36,
        labels=("ant", "bee", "cat", "dog", "elk"), weights_sha256="1" * 64,
        style_layers=(layer,), content_layers=(layer,), dream_layer=layer, cam_layer=layer,
    )  # fmt: skip
