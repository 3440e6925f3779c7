"""What an optimisation strives for, as losses on activations; each is reduced per sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions compared with all vectors at a time.
MATCHED_AT_ONCE = 4096


def gram(activation: Tensor) -> Tensor:
    """Return the Gram matrices `[N,C,C]` of activations `[N,C,H,W]`, divided by `C*H*W`.

    Source: Gatys et al. 2016, equation 3, with the normalisation of Johnson et al. 2016, eq. 3.
    """
    n, c, h, w = activation.shape
    flat = activation.reshape(n, c, h * w)
    return torch.bmm(flat, flat.transpose(1, 2)) / (c * h * w)


def alikeness(activation: Tensor, variants: int, looks: int) -> Tensor:
    """Return the mean cosine of the Gram matrices of a picture and its other variants, `[n]`.

    Of several looks at a picture, one after the other in the batch `[N,C,H,W]`, the mean counts;
    variants of an objective follow each other.

    Source: Olah et al. 2017, "Feature Visualization", diversity.
    """
    channels, places = activation.shape[1], looks * activation[0, 0].numel()
    # a mean of Gram matrices is that of all positions
    flat = activation.reshape(-1, looks, channels, places // looks).transpose(1, 2)
    flat = flat.reshape(-1, variants, channels, places)
    if gram_values(variants, channels, places) == channels**2:
        grams = (flat @ flat.transpose(2, 3)).flatten(2)
        inner = grams @ grams.transpose(1, 2)
    else:  # how alike two Gram matrices are is also a sum over pairs of positions
        rows = flat.transpose(2, 3).flatten(1, 2)
        pairs = rows @ rows.transpose(1, 2)
        inner = pairs.view(-1, variants, places, variants, places).square().sum((2, 4))
    size = inner.diagonal(dim1=1, dim2=2).clamp_min(1e-24).sqrt()
    cosine = inner / (size[:, :, None] * size[:, None, :])
    others = 1 - torch.eye(variants, device=activation.device)
    return (cosine * others).sum(2).flatten() / max(1, variants - 1)


def gram_values(variants: int, channels: int, places: float) -> float:
    """Return how many values `alikeness` makes of each variant: the fewest it can do with."""
    return min(channels**2, variants * places**2)


@dataclass(frozen=True)
class Guide:
    """What a picture's features are made of: their `mean` `[C]` and the `directions` from it.

    `directions` `[G,C]` are of unit length.
    """

    mean: Tensor
    directions: Tensor

    @staticmethod
    def of(vectors: Tensor) -> Guide:
        """Take the features `[G,C]` of a picture's positions for a guide."""
        mean = vectors.mean(0)
        return Guide(mean, F.normalize(vectors - mean, dim=1))


def guided(activation: Tensor, guide: Guide) -> Tensor:
    """Return how much of the guide is in each position of `[N,C,H,W]`, `[N,H,W]`.

    That is the dot product with the guide's direction that matches it best, times the square of
    their cosine. Two departures from the source, which takes the bare dot product of features: they
    are centred, as what all features share would match everything, and the cosine keeps positions
    from striving for their match by mere strength.

    Source: Mordvintsev et al. 2015, the reference notebook, "Controlling dreams"; Olah et al. 2017,
    "Feature Visualization", caricatures, for the cosine.
    """
    flat = activation.flatten(2).transpose(1, 2) - guide.mean
    with torch.no_grad():  # in pieces: all products at once would be larger than the network
        pieces = torch.split(flat, MATCHED_AT_ONCE, dim=1)
        best = torch.cat([(piece @ guide.directions.T).argmax(2) for piece in pieces], 1)
    dot = (flat * guide.directions[best]).sum(2)
    # a floor keeps a gradient where a position resembles nothing
    cosine = (dot / flat.norm(dim=2).clamp_min(1e-6)).clamp_min(0.1)
    worth: Tensor = dot * cosine.square()
    return worth.view(len(activation), *activation.shape[2:])


def matching(vectors: float, channels: int) -> float:
    """Return the operations of finding what matches a position best, among so many vectors."""
    return 2.0 * vectors * channels


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each sample over the squared size of its target, `[N]`."""
    error = (value - target).flatten(1).square().sum(1)
    return error / target.flatten(1).square().sum(1).clamp_min(1e-12)


def style_loss(activations: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return the mean relative Gram error over the layers of `targets`, `[N]`.

    The paper weighs absolute errors by hand for each layer; relative errors need no weights and
    do not depend on the picture's size.
    """
    errors = [
        relative_error(gram(activations[name]), target.expand(len(activations[name]), -1, -1))
        for name, target in targets.items()
    ]
    return torch.stack(errors).mean(0)


def content_loss(activations: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return the mean relative feature error over the layers of `targets`, `[N]`.

    Source: Gatys et al. 2016, equation 1, relative to the target's size.
    """
    errors = [relative_error(activations[name], target) for name, target in targets.items()]
    return torch.stack(errors).mean(0)
