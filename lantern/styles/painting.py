"""A painter at work: pictures of any size, and what a caller may ask beside the style."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.animation import Frames, frames_of, timing_of
from lantern.artifact import Animation, Picture
from lantern.checkpoint import Checkpoints, restoring
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.tiles import HALO, Box, cut
from lantern.palette import grey, recoloured, with_colours_of
from lantern.params import Params
from lantern.progress import Progress, Step, silent
from lantern.styles.engine import Engine
from lantern.styles.network import StyleNetwork, pad_to_multiple

# Pictures of more pixels are painted in tiles that see this side; the halo around what they paint
# is more than a network of five blocks and 9x9 ends looks at.
WHOLE, SIDE = 2048 * 2048, 1024 + 2 * HALO
# Rows and columns of parts that are measured for a picture in tiles, and their side.
PARTS, PART = 3, 384
# Frames differ by noise up to about this (of 0..1), in the mean over so many px a side.
MOVED, AROUND = 0.05, 9
# Longest side that is painted, px.
MOST = 4096

Before = tuple[Tensor, Tensor]
"""What was seen of a frame, `[4,H,W]`, and what was painted of it, `[3,H,W]`."""


class PaintingParams(Params):
    """How strong, how large, and what is kept of the photograph."""

    strength: float = Field(1.0, ge=0, le=1, description="1 is fully painted, 0 the photograph")
    size: int = Field(
        1024,
        ge=64,
        le=MOST,
        description="longest side of the result; larger pictures are shrunk",
        json_schema_extra={"unit": "px"},
    )
    style_scale: float = Field(
        1.0, ge=0.25, le=4, description="size of the strokes; 1 is as the network learnt them"
    )
    color: Literal["style", "luminance", "histogram"] = Field(
        "style",
        description=(
            "style: the painting's colours; luminance: the photograph's, under painted light; "
            "histogram: strokes in a palette fitted to the photograph's"
        ),
    )
    smoothing: float = Field(
        0.6,
        ge=0,
        le=0.95,
        description="of an animation: share of the frame before that stays where nothing moves",
    )


@dataclasses.dataclass(frozen=True)
class Painter:
    """A network ready to paint, with its own hand or with `hand` `[1,D]`.

    `tiles` makes an engine that wants a measured hand.
    """

    network: StyleNetwork
    whole: Engine
    tiles: Callable[[], Engine]
    hand: Tensor | None = None

    def paint(self, image: Image) -> Image:
        """Paint a picture at its own size."""
        pixels = pad_to_multiple(image.pixels[None])
        is_large = pixels.shape[2] * pixels.shape[3] > WHOLE
        painted = self._in_tiles(pixels) if is_large else self.whole.forward(pixels, self.hand)
        return dataclasses.replace(image, pixels=painted[0, :, : image.height, : image.width])

    def _in_tiles(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        device = next(self.network.parameters()).device
        given = None if self.hand is None else self.hand.to(device)
        hand = self.network.measure(parts(pixels).to(device), given)
        engine, out = self.tiles(), torch.empty_like(pixels)
        for tile in cut(height, width, side=SIDE, halo=HALO):
            painted = engine.forward(tile.seen.of(pixels), hand)
            tile.core.of(out).copy_(tile.counted(painted, 1))
        return out


def parts(pixels: Tensor) -> Tensor:
    """Return parts evenly spread over a picture `[1,3,H,W]`, `[N,3,h,w]`."""
    height, width = (min(PART, side) for side in pixels.shape[2:])
    tops, lefts = (
        torch.linspace(0, whole - part, PARTS).long().tolist()
        for whole, part in zip(pixels.shape[2:], (height, width), strict=True)
    )
    boxes = [Box(t, x, t + height, x + width) for t, x in itertools.product(tops, lefts)]
    return torch.cat([box.of(pixels) for box in boxes])


def repainted(
    painter: Painter,
    image: Image,
    params: PaintingParams,
    mask: Image | None,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
) -> Picture | Animation:
    """Paint a photograph, or an animation frame by frame, each of them a step."""
    if image.film is None:
        made = painted(painter, image, params, mask)
        progress(Step(1, 1, 0.0, lambda: made))
        return Picture("picture", made)
    film = Film(painter, params, mask, progress, checkpoints or Checkpoints())
    return film.paint(image)


@dataclasses.dataclass(frozen=True)
class Film:
    """How an animation is painted: watched, and kept frame by frame for a run that goes on.

    What is painted is rounded to the 256 levels that files hold, so that a film that was broken off
    ends in the same values without being kept four times as large.
    """

    painter: Painter
    params: PaintingParams
    mask: Image | None
    progress: Progress
    checkpoints: Checkpoints

    def paint(self, image: Image) -> Animation:
        """Paint all frames of the animation that `image` is the first of, or those left to do."""
        timing, frames = timing_of(image), frames_of(image, self.params.size)
        done, before = self._kept(frames)
        for made in smoothed(self.painter, frames, self.params, self.mask, before):
            done.append(made)
            shown = functools.partial(done.__getitem__, len(done) - 1)
            self.progress(Step(len(done), len(timing.times_ms), 0.0, shown))
            self.checkpoints.keep_tensors(functools.partial(_state, done, made))
        return Animation("picture", done, timing.times_ms, timing.plays)

    def _kept(self, frames: Iterator[Image]) -> tuple[Frames, Before | None]:
        """Return the frames an earlier run has painted, gone past, and what the next needs."""
        kept = self.checkpoints.restore_tensors()
        if kept is None:
            return Frames(), None
        with restoring():
            done = Frames(kept[_name(place)] for place in range(len(kept) - 1))
            last = deque(itertools.islice(frames, len(done)), maxlen=1).pop()
            return done, (_seen(last), kept["last"])


def _state(done: Frames, made: Image) -> dict[str, Tensor]:
    frames = {_name(place): levels for place, levels in enumerate(done.levels)}
    return frames | {"last": made.pixels}


def _name(place: int) -> str:
    return f"frame-{place}"


def smoothed(
    painter: Painter,
    frames: Iterable[Image],
    params: PaintingParams,
    mask: Image | None,
    before: Before | None = None,
) -> Iterator[Image]:
    """Paint frames; where a frame is as the one before, it stays nearly as that was painted.

    What flickers is the paint, which noise too small to see turns into other strokes: it is a
    running mean over the frames in which a place stood still. `before` is the frame before the
    first, where there is one.
    """
    for frame in frames:
        photo = frame.fit(params.size)
        made = painted(painter, photo, params, mask)
        if before is not None and params.smoothing > 0:
            stays = params.smoothing * stillness(_seen(photo), before[0])
            made = dataclasses.replace(made, pixels=torch.lerp(made.pixels, before[1], stays))
        before = (_seen(photo), made.pixels)
        yield made


def _seen(photo: Image) -> Tensor:
    """Return colours and opacity: white that comes to cover something is a change as well."""
    alpha = torch.ones(photo.height, photo.width) if photo.alpha is None else photo.alpha
    return torch.cat([photo.pixels, alpha[None]])


def stillness(now: Tensor, before: Tensor) -> Tensor:
    """Tell where two frames `[C,H,W]` are alike, `[1,H,W]`: 1 where they are, 0 where not."""
    apart = (now - before).abs().sum(0, keepdim=True) / 3  # a mean over the colours
    around = F.avg_pool2d(apart[None], AROUND, 1, AROUND // 2, count_include_pad=False)[0]
    return torch.exp(-((around / MOVED) ** 2))


def check_strokes(params: PaintingParams, longest: float) -> None:
    """Check how large the network is to paint a photograph whose longest side is so many px.

    Raises:
        InvalidParameter: larger than it paints.
    """
    if longest > MOST * params.style_scale:
        raise InvalidParameter(
            f"strokes of {params.style_scale} make the network paint {longest:.0f} px at "
            f"{longest / params.style_scale:.0f} px; it paints at most {MOST}",
            pointer="/params/style_scale",
        )


def painted(painter: Painter, image: Image, params: PaintingParams, mask: Image | None) -> Image:
    """Paint a photograph as it is asked for; under a mask's black it stays as it is."""
    photo = image.fit(params.size)
    check_strokes(params, max(photo.height, photo.width))
    ground = photo.opaque()
    drawn = grey(ground) if params.color == "luminance" else ground
    height, width = (max(16, round(side / params.style_scale)) for side in drawn.pixels.shape[1:])
    made = painter.paint(drawn.resize(height, width)).resize(photo.height, photo.width)
    if params.color == "luminance":
        made = with_colours_of(made, ground)
    elif params.color == "histogram":
        made = recoloured(made, ground)
    made = photo.repainted(made.pixels)
    if params.strength == 1 and mask is None:
        return made
    share = torch.full((1, 1), params.strength)
    if mask is not None:
        share = share * grey(mask).resize(photo.height, photo.width).pixels[0]
    pixels = torch.lerp(photo.pixels, made.pixels, share)
    return dataclasses.replace(photo, pixels=pixels)
