"""Enlarging and convolving in one step: the same numbers, with less than half of the products."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lantern.styles.network import StyleNetwork

# How the three weights of a row meet the pixels that it is laid over when each was repeated: an
# enlarged pixel's neighbours are often the same pixel, whose weights add up.
_SUMS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def joined(network: StyleNetwork) -> StyleNetwork:
    """Return a copy whose decoder enlarges and convolves in one step each time.

    Repeating pixels, mirroring the border and a 3x3 convolution are a transposed convolution of
    4x4 weights in steps of two, on pixels whose border is repeated: four products for each result
    where there were nine. Its training keeps the two apart, which leaves no grid (Odena et al.
    2016, "Deconvolution and Checkerboard Artifacts").
    """
    twin = copy.deepcopy(network)
    layers: list[nn.Module] = []
    for layer in twin.decoder:
        if layers and isinstance(layers[-1], nn.Upsample):
            assert isinstance(layer, nn.Sequential)
            _, convolution, *others = layer
            assert isinstance(convolution, nn.Conv2d)
            layers[-1:] = [nn.ReplicationPad2d(1), _transposed(convolution), *others]
        else:
            layers.append(layer)
    twin.decoder = nn.Sequential(*layers)
    return twin


@torch.no_grad()
def _transposed(convolution: nn.Conv2d) -> nn.ConvTranspose2d:
    """Return what does to pixels what a 3x3 convolution does to them enlarged."""
    out, channels = convolution.weight.shape[:2]
    # on the device of shapes alone, where its random weights cost nothing and draw no numbers
    made = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=3, device="meta")
    sums: Tensor = convolution.weight.new_tensor(_SUMS)
    weights = torch.einsum("ak,bl,dckl->cdab", sums, sums, convolution.weight)
    made.weight = nn.Parameter(weights)
    assert convolution.bias is not None
    made.bias = nn.Parameter(convolution.bias.clone())
    return made.requires_grad_(False)
