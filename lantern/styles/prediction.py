"""From a painting to a hand in one pass: what a vision network sees of it, and a small network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lantern.image import Image
from lantern.vision_model import VisionModel

# Of the network that is always there: layers at a half, a quarter and an eighth of the size, whose
# Gram matrices say how a painting's strokes and colours go together, and one of which only means
# and spreads are taken.
GRAMS = ("_blocks.0", "_blocks.2", "_blocks.4")
MOMENTS = ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.6")
# Short side at which a painting is looked at.
LOOKED_AT = 256


def signature(model: VisionModel, paintings: Tensor) -> Tensor:
    """Return what is seen of paintings `[N,3,H,W]`, `[N,F]`: nothing of where it is."""
    with model.quick((*GRAMS, *MOMENTS)).capture((*GRAMS, *MOMENTS)) as features:
        seen = features(paintings)
    parts = [_moments(paintings)]
    for name in GRAMS:
        flat = seen[name].flatten(2)
        products = torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[2]
        rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1])
        upper = products[:, rows, columns]
        parts.append(upper.sign() * upper.abs().sqrt())
    parts.extend(_moments(seen[name]) for name in MOMENTS)
    return torch.cat(parts, 1)


def painting_pixels(painting: Image) -> Tensor:
    """Return a painting `[1,3,H,W]` at the size at which it is looked at."""
    return painting.cover(LOOKED_AT).pixels[None]


def _moments(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], 1)


class Predictor(nn.Module):
    """Signatures `[N,F]` to hands `[N,D]`.

    Source: Ghiasi et al. 2017, "Exploring the structure of a real-time, arbitrary neural artistic
    stylization network", section 2.2, with Gram matrices of early layers in place of an
    Inception's last one.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, features: int, hand: int, *, width: int = 128) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.narrow = nn.Linear(features, width)
        self.hidden = nn.Linear(width, width)
        self.wide = nn.Linear(width, hand)
        nn.init.zeros_(self.wide.weight)
        nn.init.zeros_(self.wide.bias)

    def forward(self, signatures: Tensor) -> Tensor:
        """Predict the hand of each painting."""
        usual = ((signatures - self.mean) / self.spread).clamp(-4, 4)
        x = torch.relu(self.narrow(usual))
        out: Tensor = self.wide(x + torch.relu(self.hidden(x)))
        return out
