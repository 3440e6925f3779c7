"""Train one network for one painting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lantern.errors import MissingInput
from lantern.image import Image
from lantern.optimize.ascend import Trace, ascend
from lantern.progress import Progress
from lantern.styles.loss import PaintingLoss, PaintingLossParams
from lantern.styles.network import Architecture, StyleNetwork
from lantern.vision_model import VisionModel


class TrainStyleParams(PaintingLossParams):
    """How to train a style network."""

    steps: int = Field(1200, ge=1, le=200_000, description="training steps")
    batch: int = Field(4, ge=1, le=64, description="photographs per step")
    crop: int = Field(256, ge=64, le=1024, multiple_of=4, description="side of a training crop, px")
    style_size: int = Field(300, ge=64, le=1024, description="short side of the painting, px")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="Adam's highest rate")
    width: int = Field(16, ge=4, le=64, description="half the channels at half resolution")
    blocks: int = Field(4, ge=1, le=16, description="residual blocks")


@dataclass(frozen=True)
class TrainedStyle:
    """A network for one painting and the losses of its training."""

    network: StyleNetwork
    trace: Trace
    style_loss: float
    content_loss: float


class Photographs:
    """Training photographs kept as uint8 `[H,W,3]`, served as random flipped crops."""

    def __init__(self, photos: Sequence[np.ndarray[Any, Any]], crop: int) -> None:
        if not photos:
            raise MissingInput("no training photographs; name a folder with at least one picture")
        self._photos, self._crop = photos, crop

    def batch(self, size: int, generator: torch.Generator) -> Tensor:
        """Return `[size,3,crop,crop]` in 0..1."""
        return torch.stack([self._one(generator) for _ in range(size)])

    def _one(self, generator: torch.Generator) -> Tensor:
        number, scale, top, left, flip = torch.rand(5, generator=generator).tolist()
        photo = self._photos[int(number * len(self._photos))]
        height, width = photo.shape[:2]
        side = max(1, int(min(height, width) * (0.6 + 0.4 * scale)))
        y, x = int(top * (height - side)), int(left * (width - side))
        box = Image.from_uint8(photo[y : y + side, x : x + side]).resize(self._crop, self._crop)
        return box.pixels.flip(-1) if flip < 0.5 else box.pixels


def train_style(
    painting: Image,
    photos: Sequence[np.ndarray[Any, Any]],
    held_out: Image,
    loss_model: VisionModel,
    params: TrainStyleParams,
    *,
    progress: Progress,
    generator: torch.Generator,
) -> TrainedStyle:
    """Train a network that paints any photograph in the hand of `painting`.

    `held_out` is a photograph it does not train on, painted for each preview.

    Source: Johnson et al. 2016, section 3.
    """
    network = _network(Architecture(params.width, blocks=params.blocks), generator)
    training = Photographs(photos, params.crop)
    terms: dict[str, float] = {}

    with PaintingLoss.by(loss_model) as judge:
        hand = judge.hand(painting.cover(params.style_size).pixels[None])

        def loss(step: int) -> Tensor:
            batch = training.batch(params.batch, generator)
            losses = judge(network(batch), batch, hand)
            terms.update(style=losses.style.mean().item(), content=losses.content.mean().item())
            return losses.total(params)

        trace = ascend(
            loss,
            torch.optim.Adam(network.parameters()),
            steps=params.steps,
            progress=progress,
            preview=lambda: paint_preview(network, held_out),
            rate=lambda step: params.learning_rate * _schedule(step, params.steps),
            clip_norm=1.0,
        )
    return TrainedStyle(network.eval(), trace, terms["style"], terms["content"])


def paint_preview(network: StyleNetwork, photo: Image, hand: Tensor | None = None) -> Image:
    """Paint a photograph as the network, or a hand `[D]`, is now, 256 px on its short side."""
    small = photo.cover(256)
    pixels = small.crop(0, 0, small.height // 4 * 4, small.width // 4 * 4).pixels
    with torch.inference_mode():
        return Image(network(pixels[None], None if hand is None else hand[None])[0])


def _network(architecture: Architecture, generator: torch.Generator) -> StyleNetwork:
    # module constructors draw from the global generator; leave the caller's as it was
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return StyleNetwork(architecture).train()


def _schedule(step: int, steps: int) -> float:
    """Rise over the first 5 % of the steps, then fall along a cosine to 1 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
