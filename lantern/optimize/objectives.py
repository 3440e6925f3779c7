"""What an optimisation strives for, as losses on activations; each is reduced per sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def gram(activation: Tensor) -> Tensor:
    """Return the Gram matrices `[N,C,C]` of activations `[N,C,H,W]`, divided by `C*H*W`.

    Source: Gatys et al. 2016, equation 3, with the normalisation of Johnson et al. 2016, eq. 3.
    """
    n, c, h, w = activation.shape
    flat = activation.reshape(n, c, h * w)
    return torch.bmm(flat, flat.transpose(1, 2)) / (c * h * w)


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
