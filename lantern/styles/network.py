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


def made(architecture: Architecture) -> StyleNetwork:
    """Make a network of random weights and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        return StyleNetwork(architecture)


class Norm(nn.InstanceNorm2d):
    """Instance normalisation; scales and shifts may be given for each picture, `[N,2C]`.

    Source: Dumoulin et al. 2017, section 2.2, "conditional instance normalization".
    """

    given: Tensor | None = None
    normalises = True

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each picture; scale and shift it."""
        if self.given is None:
            return super().forward(input)
        scale, shift = self.given[:, :, None, None].chunk(2, dim=1)
        if self.normalises:
            input = F.instance_norm(input, eps=self.eps)
        return input * scale + shift

    def measured(self, x: Tensor) -> Tensor:
        """Return the scale and shift `[1,2C]` that do what this does to `[N,C,H,W]` as one."""
        spread, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        hand = torch.cat([self.weight, self.bias])[None] if self.given is None else self.given[:1]
        scale, shift = hand.chunk(2, dim=1)
        scale = scale * (spread + self.eps).rsqrt()
        return torch.cat([scale, shift - mean * scale], 1)


class StyleNetwork(nn.Module):
    """Pixels `[N,3,H,W]` in 0..1 to painted pixels of the same shape; H and W multiples of 4.

    All scales and shifts of its normalisations are its *hand*: one network paints in as many hands
    as it is given.

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

    def forward(
        self, pixels: Tensor, hands: Tensor | None = None, *, measured: bool = False
    ) -> Tensor:
        """Paint a batch of photographs, with the network's own hand or with `hands` `[N,D]`.

        Hands that are `measured` hold the statistics of a picture already: nothing is normalised.
        """
        norms = self.norms()
        pieces = (None,) * len(norms) if hands is None else torch.split(hands, self._sizes(), dim=1)
        for norm, piece in zip(norms, pieces, strict=True):
            norm.given, norm.normalises = piece, not measured
        try:
            return torch.sigmoid(self.decoder(self.residuals(self.encoder(pixels * 2 - 1))))
        finally:
            for norm in norms:
                norm.given, norm.normalises = None, True

    @torch.inference_mode()
    def measure(self, parts: Tensor, hand: Tensor | None = None) -> Tensor:
        """Return the hand `[1,D]`, measured, of a picture of which there are parts `[N,3,H,W]`."""
        found: list[Tensor] = []

        def look(norm: Norm, seen: tuple[Tensor]) -> None:
            norm.given, norm.normalises = norm.measured(seen[0]), False
            found.append(norm.given)

        hooks = [norm.register_forward_pre_hook(look) for norm in self.norms()]
        try:
            self(parts, None if hand is None else hand.expand(len(parts), -1))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(found, 1)

    @property
    def hand_size(self) -> int:
        """How many numbers a hand has: `D`."""
        return sum(self._sizes())

    def hand(self) -> Tensor:
        """Return its own hand `[D]`: of each normalisation the scales, then the shifts."""
        return torch.cat([part for norm in self.norms() for part in (norm.weight, norm.bias)])

    @torch.no_grad()
    def take(self, hand: Tensor) -> None:
        """Make a hand `[D]` the network's own."""
        for norm, piece in zip(self.norms(), torch.split(hand, self._sizes()), strict=True):
            scale, shift = piece.chunk(2)
            norm.weight.copy_(scale)
            norm.bias.copy_(shift)

    def norms(self) -> list[Norm]:
        """Return the normalisations, first to last."""
        return [module for module in self.modules() if isinstance(module, Norm)]

    def _sizes(self) -> list[int]:
        return [2 * norm.num_features for norm in self.norms()]


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


class Measured(nn.Module):
    """A style network that normalises nothing: its hands hold a picture's statistics already."""

    def __init__(self, network: StyleNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, hands: Tensor) -> Tensor:
        """Paint parts of the picture that was measured."""
        out: Tensor = self.network(pixels, hands, measured=True)
        return out


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
        Norm(outputs, affine=True),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def pad_to_multiple(pixels: Tensor, multiple: int = 4) -> Tensor:
    """Reflect-pad `[N,3,H,W]` at the bottom and the right up to a multiple; crop to undo."""
    bottom, right = (-pixels.shape[-2]) % multiple, (-pixels.shape[-1]) % multiple
    if not bottom and not right:
        return pixels
    return F.pad(pixels, (0, right, 0, bottom), mode="reflect")
