"""How a picture is laid into a network's square field of view, and a map back over it."""

from __future__ import annotations

from dataclasses import dataclass

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


def scale_box(
    box: tuple[int, int, int, int], image: Image, scaled: Image
) -> tuple[int, int, int, int]:
    """Return a box of a scaled picture in pixels of the picture itself."""
    tall, wide = image.height / scaled.height, image.width / scaled.width
    top, left = round(box[0] * tall), round(box[1] * wide)
    height = min(image.height - top, round(box[2] * tall))
    width = min(image.width - left, round(box[3] * wide))
    return top, left, height, width
