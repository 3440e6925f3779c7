"""How a picture is laid into a network's square field of view, and a map back over it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lantern.image import Image


@dataclass(frozen=True)
class Framing:
    """How a picture was laid into the network's field of view.

    `box` is `(top, left, height, width)` in pixels of the picture: the part the network saw.
    """

    pixels: Tensor
    box: tuple[int, int, int, int]
    picture: tuple[int, int]

    def to_picture(self, field: Tensor) -> Tensor:
        """Lay a map `[H,W]` over the network's view back over the picture; zero where unseen."""
        top, left, height, width = self.box
        out = field.new_zeros(self.picture)
        seen = nn.functional.interpolate(
            field[None, None],
            size=(height, width),
            mode="bilinear",
            align_corners=False,
            antialias=True,  # a small picture must not lose single pixels of the map
        )
        out[top : top + height, left : left + width] = seen[0, 0]
        return out

    def spread(self, shares: Tensor) -> Tensor:
        """Lay a map `[H,W]` of shares over the picture so that they still add up to the same."""
        top, left, height, width = self.box
        # bilinear, by whole factors, which keep sums; other sizes would count some pixels more
        down, across = -(-height // shares.shape[0]), -(-width // shares.shape[1])
        fine = nn.functional.interpolate(
            shares[None, None], scale_factor=(down, across), mode="bilinear", align_corners=False
        )[0, 0]
        out = shares.new_zeros(self.picture)
        seen = _sums(_sums(fine / (down * across), width).T, height).T
        out[top : top + height, left : left + width] = seen
        return out


def _sums(field: Tensor, count: int) -> Tensor:
    """Return the sums over `count` equal parts of each row `[R,N]`; values on a border are cut."""
    until = nn.functional.pad(field.double().cumsum(1), (1, 0))
    border = torch.linspace(0, field.shape[1], count + 1, dtype=torch.float64, device=field.device)
    before = border.long().clamp_max(field.shape[1] - 1)
    at_border = torch.lerp(until[:, before], until[:, before + 1], border - before)
    return at_border.diff(dim=1).to(field)


def scale_box(
    box: tuple[int, int, int, int], image: Image, scaled: Image
) -> tuple[int, int, int, int]:
    """Return a box of a scaled picture in pixels of the picture itself."""
    tall, wide = image.height / scaled.height, image.width / scaled.width
    top, left = round(box[0] * tall), round(box[1] * wide)
    height = min(image.height - top, round(box[2] * tall))
    width = min(image.width - left, round(box[3] * wide))
    return top, left, height, width
