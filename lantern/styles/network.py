"""Image transformation networks: one forward pass paints a photograph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """Shape of a network.

    `width` is half the channels at half resolution, `ends` the kernel of the first and last layer
    and `blocks` the number of residual blocks. A `folded` network begins and ends at half
    resolution: 2x2 blocks of pixels become channels and back, which spares the two most expensive
    layers. `CLASSIC` is the network of Johnson et al. 2016.
    """

    width: int = 16
    ends: int = 3
    blocks: int = 4
    folded: bool = True


CLASSIC = Architecture(width=32, ends=9, blocks=5, folded=False)


class StyleNetwork(nn.Module):
    """Pixels `[N,3,H,W]` in 0..1 to painted pixels of the same shape; H and W multiples of 4.

    Source: Johnson et al. 2016, supplementary table 1, with the instance normalisation of Ulyanov
    et al. 2016, nearest-neighbour upsampling in place of strided transposed convolutions, and a
    sigmoid in place of the scaled tanh; folded ends as in Shi et al. 2016, section 3.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        w, ends = architecture.width, architecture.ends
        self.encoder = nn.Sequential(
            *_first(w, ends, folded=architecture.folded), _convolution(2 * w, 4 * w, 3, stride=2)
        )
        self.residuals = nn.Sequential(*(Residual(4 * w) for _ in range(architecture.blocks)))
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest"),
            _convolution(4 * w, 2 * w, 3),
            *_last(w, ends, folded=architecture.folded),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Paint a batch of photographs."""
        return torch.sigmoid(self.decoder(self.residuals(self.encoder(pixels * 2 - 1))))


def _first(w: int, ends: int, *, folded: bool) -> tuple[nn.Module, ...]:
    if folded:
        return nn.PixelUnshuffle(2), _convolution(12, 2 * w, ends)
    return _convolution(3, w, ends), _convolution(w, 2 * w, 3, stride=2)


def _last(w: int, ends: int, *, folded: bool) -> tuple[nn.Module, ...]:
    if folded:
        convolution = nn.Conv2d(2 * w, 12, ends)
        _agree_within_blocks(convolution)
        return nn.ReflectionPad2d(ends // 2), convolution, nn.PixelShuffle(2)
    return (
        nn.Upsample(scale_factor=2.0, mode="nearest"),
        _convolution(2 * w, w, 3),
        nn.ReflectionPad2d(ends // 2),
        nn.Conv2d(w, 3, ends),
    )


def _agree_within_blocks(convolution: nn.Conv2d) -> None:
    # The four pixels of a block start out equal, so that training begins without a 2x2 grid
    # (Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution").
    with torch.no_grad():
        convolution.weight.copy_(convolution.weight[::4].repeat_interleave(4, 0))
        if convolution.bias is not None:
            convolution.bias.copy_(convolution.bias[::4].repeat_interleave(4, 0))


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; the sum is not rectified."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels, 3), _convolution(channels, channels, 3, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to its input."""
        out: Tensor = x + self.body(x)
        return out


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(inputs, outputs, kernel, stride),
        nn.InstanceNorm2d(outputs, affine=True),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def pad_to_multiple(pixels: Tensor, multiple: int = 4) -> Tensor:
    """Reflect-pad `[N,3,H,W]` at the bottom and the right up to a multiple; crop to undo."""
    bottom, right = (-pixels.shape[-2]) % multiple, (-pixels.shape[-1]) % multiple
    if not bottom and not right:
        return pixels
    return F.pad(pixels, (0, right, 0, bottom), mode="reflect")
