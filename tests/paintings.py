"""A small library of styles: a network that two share, and one with a network to itself."""

from __future__ import annotations

from pathlib import Path

import torch

from lantern.image import Image
from lantern.styles.engine import Engine, Hands, torch_engine
from lantern.styles.library import Style, StyleLibrary
from lantern.styles.network import Architecture, StyleNetwork
from lantern.styles.own import OwnStyles
from lantern.styles.prediction import Predictor, painting_pixels, signature
from lantern.styles.shared import Shared
from lantern.vision_model import VisionModel

SMALL = Architecture(width=4, blocks=2)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int = 0) -> StyleNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleNetwork(SMALL).eval().requires_grad_(False)


def hand(of: StyleNetwork, seed: int) -> torch.Tensor:
    return of.hand() + torch.randn(of.hand_size, generator=chance(seed))


def in_float32(network: StyleNetwork, hands: Hands = "own") -> Engine:
    return torch_engine(network, torch.float32, hands)


def shared(features: int = 12, *, seed: int = 0) -> Shared:
    ours = network(seed)
    predictor = Predictor(features, ours.hand_size, width=8).requires_grad_(False)
    torch.nn.init.normal_(predictor.wide.weight, std=0.5, generator=chance(5))
    hands = {"stars": hand(ours, 1), "waves": hand(ours, 2)}
    return Shared(ours, hands, ours.hand(), predictor)


def fill(folder: Path, model: VisionModel, picture: Image, own: Path | None = None) -> StyleLibrary:
    """Make the library, in which `model` looks at paintings."""
    with torch.inference_mode():
        features = signature(model, painting_pixels(Image(torch.rand(3, 64, 64)))).shape[1]
    made = StyleLibrary(folder, own=OwnStyles(own), engine=in_float32, looker=lambda: model)
    styles = [Style(name, name, f"{name}.jpg", {}, blends=True) for name in ("stars", "waves")]
    made.share(shared(features), [(style, picture) for style in styles])
    made.add("dots", network(3), picture, title="Dots", facts={})
    return made
