"""Artifacts that are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lantern.animation import Timing, encode_frames
from lantern.artifacts.base import PLAIN, Artifact, Rendering
from lantern.colour import colourise
from lantern.image import FORMATS, GIF, Image, caption

# Between the tiles of a grid: pixels, and their level.
GAP, GAP_LEVEL = 2, 0.88
# WebP has no larger sides, px.
LARGEST_WEBP = 16_383


@dataclass(frozen=True, eq=False)
class Picture(Artifact):
    """A picture the technique made; `lossless` where it is spoilt by a file that loses anything.

    `raw` `[3,H,W]` are the numbers that were drawn, where these are no colours.
    """

    kind = "picture"
    name: str
    image: Image
    lossless: bool = False
    raw: Tensor | None = None

    @property
    def media_types(self) -> tuple[str, ...]:
        """JPEG first, unless that would lose transparency or what must not be lost."""
        order = tuple(FORMATS)
        is_png = self.lossless or self.image.alpha is not None
        return tuple(sorted(order, key=_keeps_most)) if is_png else order

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the picture's file."""
        self._require(media_type)
        return self.image.encode(media_type, rendering.quality)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[3,H,W]`, sRGB, 0..1; `raw` where it is there."""
        shown = self.image.pixels if self.raw is None else self.raw
        return {self.name: shown.detach().cpu().numpy()}


def numbered(name: str, images: Iterable[Image], *, lossless: bool = False) -> tuple[Picture, ...]:
    """Make an artifact of each picture; those after the first are called `name-2`, `name-3`."""
    return tuple(
        Picture(name if number == 1 else f"{name}-{number}", image, lossless)
        for number, image in enumerate(images, 1)
    )


@dataclass(frozen=True, eq=False)
class Heatmap(Artifact):
    """A signed map `[H,W]` over a picture, in the technique's own unit.

    `raw` `[h,w]` is the map as it was found, on the network's own grid.
    """

    kind = "heatmap"
    name: str
    values: Tensor
    under: Image
    raw: Tensor | None = None

    @property
    def media_types(self) -> tuple[str, ...]:
        """Any picture format."""
        return tuple(FORMATS)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return float(self.values.min()), float(self.values.max())

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the coloured map, laid over the picture or alone."""
        self._require(media_type)
        return self.drawn(rendering).encode(media_type, rendering.quality)

    def drawn(self, rendering: Rendering = PLAIN) -> Image:
        """Return the coloured map as a picture."""
        colours = colourise(self.values, rendering.colormap, quantile=rendering.quantile)
        if rendering.overlay:
            colours = torch.lerp(self.under.pixels, colours, rendering.opacity)
        return Image(colours)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[H,W]`, signed; where there is `raw`, also that, as `<name>.grid`."""
        found = {self.name: self.values} | (
            {} if self.raw is None else {f"{self.name}.grid": self.raw}
        )
        return {name: values.detach().cpu().numpy() for name, values in found.items()}


@dataclass(frozen=True, eq=False)
class Grid(Artifact):
    """A contact sheet: `images` float32 `[N,3,h,w]`, sRGB, 0..1, row by row in `columns`.

    `raw` `[N,...]` are the numbers that were drawn, where these are not pictures.

    Raises:
        ValueError: there is no picture or column, or not one caption for each picture.
    """

    kind = "grid"
    name: str
    images: Tensor
    columns: int
    captions: tuple[str, ...] = ()
    raw: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not self.images.numel() or self.columns < 1:
            raise ValueError("a grid has pictures [N,3,h,w], N at least 1, and columns")
        if self.captions and len(self.captions) != len(self.images):
            raise ValueError("a grid has one caption for each picture, or none")

    @property
    def media_types(self) -> tuple[str, ...]:
        """Any picture format that can be as large."""
        is_small = max(self._size) <= LARGEST_WEBP
        return tuple(form for form in FORMATS if is_small or form != "image/webp")

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the pictures side by side, a light gap between them, on white."""
        self._require(media_type)
        return self.sheet().encode(media_type, rendering.quality)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[N,3,h,w]`, without gaps and captions; `raw` where it is there."""
        shown = self.images if self.raw is None else self.raw
        return {self.name: shown.detach().cpu().numpy()}

    def sheet(self) -> Image:
        """Return the sheet as one picture; places the last row leaves empty are white."""
        tile_height, tile_width = self._tile
        sheet = torch.full((3, *self._size), GAP_LEVEL)
        for place in range(self._rows * self._across):
            row, column = divmod(place, self._across)
            top, left = row * (tile_height + GAP), column * (tile_width + GAP)
            sheet[:, top : top + tile_height, left : left + tile_width] = self._drawn(place)
        return Image(sheet)

    def _drawn(self, place: int) -> Tensor:
        """Draw a picture above its caption, or nothing behind the last one."""
        tile = torch.ones(3, *self._tile)
        if place < len(self.images):
            image = self.images[place].detach().cpu()
            tile[:, : image.shape[1]] = image
            if self.captions:
                tile[:, image.shape[1] :] = caption(self.captions[place], image.shape[2]).pixels
        return tile

    @property
    def _across(self) -> int:
        return min(self.columns, len(self.images))

    @property
    def _rows(self) -> int:
        return _rows(len(self.images), self._across)

    @property
    def _tile(self) -> tuple[int, int]:
        """Height and width of a picture with its caption, px."""
        height, width = self.images.shape[2:]
        return height + (caption("", width).height if self.captions else 0), width

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the sheet, px."""
        return sheet_size(len(self.images), self._across, *self._tile)


def sheet_size(count: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width (px) of a sheet of `count` tiles in columns, with their gaps."""
    return _rows(count, columns) * (height + GAP) - GAP, columns * (width + GAP) - GAP


def _rows(count: int, columns: int) -> int:
    return -(-count // columns)


@dataclass(frozen=True, eq=False)
class Animation(Artifact):
    """Pictures of one size shown one after another, each for `frame_ms` milliseconds.

    Where frames are not shown equally long, `frame_ms` has a number for each. All are shown `plays`
    times, endlessly where that is 0.

    Raises:
        ValueError: there is no frame or no time, or frames differ in size.
    """

    kind = "animation"
    name: str
    frames: Sequence[Image]
    frame_ms: int | tuple[int, ...]
    plays: int = 0

    def __post_init__(self) -> None:
        shapes, times = {frame.pixels.shape for frame in self.frames}, self._times()
        if len(shapes) != 1 or min(times) < 1 or len(times) != len(self.frames):
            raise ValueError("an animation has frames, all of one size, and a time for each")

    @property
    def media_types(self) -> tuple[str, ...]:
        """Animated WebP, and GIF of 256 colours a frame."""
        return ("image/webp", GIF)

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the animation's file."""
        self._require(media_type)
        timing = Timing(self._times(), self.plays)
        return encode_frames(self.frames, media_type, timing, quality=rendering.quality)

    def _times(self) -> tuple[int, ...]:
        if isinstance(self.frame_ms, tuple):
            return self.frame_ms
        return (self.frame_ms,) * max(1, len(self.frames))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[T,3,H,W]`, sRGB, 0..1."""
        frames = [frame.pixels.detach().cpu() for frame in self.frames]
        return {self.name: torch.stack(frames).numpy()}

    def array_bytes(self) -> int:
        """Return how many bytes the raw numbers have, without making them."""
        return len(self.frames) * self.frames[0].pixels.nbytes

    def is_finite(self) -> bool:
        """Tell whether all frames are, without a copy of them."""
        return all(bool(frame.pixels.isfinite().all()) for frame in self.frames)


def _keeps_most(media_type: str) -> int:
    return ("image/png", "image/webp", "image/jpeg").index(media_type)
