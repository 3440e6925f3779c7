"""Animations: their frames in and out. PIL is used here, and for pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import PIL.Image
import PIL.ImageSequence
import torch
from torch import Tensor

from lantern.errors import BadImage
from lantern.image import FORMATS, GIF, Image, of_picture, save_options

# What an animation from outside may have: frames, and pixels of all of them.
MOST_FRAMES, MOST_PIXELS = 240, 2**26
# Browsers show frames that claim less time than this (ms) for a tenth of a second.
SHORTEST_MS, USUAL_MS = 11, 100
# A GIF counts in hundredths of a second, and its frames are shown for two of them or more.
GIF_STEP_MS, SHORTEST_GIF_MS = 10, 20
# How often files can say that an animation is to be shown.
MOST_PLAYS = 2**16 - 1
T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """How long each frame is shown, in milliseconds, and how often all are: 0 is endlessly."""

    times_ms: tuple[int, ...]
    plays: int = 0


class Frames(Sequence[Image]):
    """Pictures kept in the 256 levels that files hold: a quarter of what they are in floats.

    `levels` are uint8 `[3,H,W]`, or `[4,H,W]` with alpha. A picture is made when it is asked for.
    """

    def __init__(self, levels: Iterable[Tensor] = ()) -> None:
        self.levels = list(levels)

    def append(self, image: Image) -> None:
        """Keep another picture."""
        alpha = [] if image.alpha is None else [image.alpha[None]]
        planes = torch.cat([image.pixels, *alpha]).detach().cpu()
        self.levels.append(planes.clamp_(0, 1).mul_(255).round_().to(torch.uint8))

    def __len__(self) -> int:
        return len(self.levels)

    @overload
    def __getitem__(self, place: int) -> Image: ...
    @overload
    def __getitem__(self, place: slice) -> Frames: ...
    def __getitem__(self, place: int | slice) -> Image | Frames:
        if isinstance(place, slice):
            return Frames(self.levels[place])
        planes = self.levels[place].float().div_(255)
        return Image(planes[:3], alpha=planes[3] if len(planes) == 4 else None)


def timing_of(image: Image) -> Timing:
    """Go through the animation that a picture is the first frame of, to learn how it is shown.

    Raises:
        BadImage: it has too many frames or pixels, or one is damaged.
    """
    with _opened(image) as animation:
        times = [ms for _, ms in _each(animation, image, lambda frame: frame.load())]
        return Timing(_whole(times), _plays(animation))


def frames_of(image: Image, longest: int) -> Iterator[Image]:
    """Go through the frames of an animation, each shrunk so that no side is above `longest` px.

    One is decoded at a time: all together may take a gigabyte.

    Raises:
        BadImage: as `timing_of`.
    """
    with _opened(image) as animation:
        for frame, _ in _each(animation, image, lambda frame: _fitted(frame, longest)):
            yield frame


def check_length(frames: int, width: int, height: int) -> None:
    """Refuse an animation of more frames, or pixels, than are taken.

    Raises:
        BadImage: it has more.
    """
    if frames > MOST_FRAMES or frames * width * height > MOST_PIXELS:
        raise BadImage(
            f"the animation has {frames} or more frames of {width}x{height} px; at most "
            f"{MOST_FRAMES} frames and {MOST_PIXELS} pixels in all are taken: shorten or shrink it",
            code="image-too-large",
        )


def encode_frames(
    frames: Iterable[Image], media_type: str, timing: Timing, *, quality: int = 90
) -> bytes:
    """Return the file of an animation, WebP or GIF, of pictures of one size.

    A GIF has no half transparent places: those at least half as opaque as any become opaque.
    """
    return _save_frames([frame.to_pil() for frame in frames], timing, media_type, quality)


def recode_frames(data: bytes, media_type: str, quality: int = 90) -> bytes:
    """Turn an animation of our own into another form, all frames and their times kept."""
    with PIL.Image.open(io.BytesIO(data)) as animation:
        pictures, times = [], []
        for frame in PIL.ImageSequence.Iterator(animation):
            pictures.append(frame.convert("RGBA" if frame.has_transparency_data else "RGB"))
            times.append(round(frame.info.get("duration", 0)))
            pictures[-1].info.clear()  # or Pillow writes a count of its own into a GIF without one
        timing = Timing(tuple(times), _plays(animation))
    return _save_frames(pictures, timing, media_type, quality)


# --- Reading -----------------------------------------------------------------------------------


def _opened(image: Image) -> PIL.Image.Image:
    assert image.film is not None, "this is no animation"
    return PIL.Image.open(io.BytesIO(image.film))


def _each(
    animation: PIL.Image.Image, image: Image, make: Callable[[PIL.Image.Image], T]
) -> Iterator[tuple[T, float]]:
    """Make something of each frame; yield it and how long the frame is shown, ms."""
    number = 0
    try:
        for number, frame in enumerate(PIL.ImageSequence.Iterator(animation), 1):
            check_length(number, image.width, image.height)
            made = make(frame)  # first: only then is the time of a WebP's known
            ms = float(frame.info.get("duration", 0))
            yield made, ms if ms >= SHORTEST_MS else USUAL_MS
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        raise BadImage(
            f"frame {number} of the animation is damaged or cut short; save it again"
        ) from error


def _fitted(frame: PIL.Image.Image, longest: int) -> Image:
    picture = of_picture(frame)
    if picture.alpha is not None and bool(picture.alpha.min() == 1):
        # Pillow gives alpha to frames that only leave what stands still as it was
        picture = replace(picture, alpha=None)
    return picture.fit(longest)


def _whole(times_ms: Iterable[float]) -> tuple[int, ...]:
    """Round times so that their sum does not drift away."""
    whole, end = list[int](), 0.0
    for ms in times_ms:
        end += ms
        whole.append(round(end) - sum(whole))
    return tuple(whole)


def _plays(animation: PIL.Image.Image) -> int:
    """Return how often an animation is to be shown, 0 for endlessly."""
    loop = animation.info.get("loop")
    if animation.format != "GIF" or loop == 0:
        return int(loop or 0)
    # a GIF says how often it is repeated, or nothing
    return min(1 + int(loop or 0), MOST_PLAYS)


# --- Writing -----------------------------------------------------------------------------------


def _save_frames(
    pictures: Sequence[PIL.Image.Image], timing: Timing, media_type: str, quality: int
) -> bytes:
    out = io.BytesIO()
    if media_type == GIF:
        _save_gif(out, pictures, timing)
    else:
        _save(
            out, FORMATS[media_type], pictures, timing.times_ms, loop=timing.plays,
            **save_options(media_type, quality),
        )  # fmt: skip
        if any(picture.mode == "RGBA" for picture in pictures):
            _flag_alpha(out)
    return out.getvalue()


def _flag_alpha(out: io.BytesIO) -> None:
    """Say in a WebP's head that it is transparent.

    libwebp only does where a frame has alpha, not where opaque ones leave parts of the canvas free.

    Source: WebP Container Specification, Extended File Format.
    """
    with out.getbuffer() as data:
        if bytes(data[12:16]) == b"VP8X":
            data[20] |= 0x10


def _save_gif(out: io.BytesIO, pictures: Sequence[PIL.Image.Image], timing: Timing) -> None:
    shown = _in_gif_steps(timing.times_ms)
    pictures = [pictures[place] for place, _ in shown]
    # without a count a GIF is shown once
    options: dict[str, Any] = {} if timing.plays == 1 else {"loop": max(0, timing.plays - 1)}
    if any(picture.mode == "RGBA" for picture in pictures):
        most = max(_most_opaque(picture) for picture in pictures)
        pictures = [_punched(picture, max(1, most // 2)) for picture in pictures]
        options["disposal"] = 2  # or frames would show through the holes of the next
    _save(out, "GIF", pictures, [ms for _, ms in shown], **options)


def _save(
    out: io.BytesIO,
    form: str,
    pictures: Sequence[PIL.Image.Image],
    times_ms: Sequence[int],
    **options: Any,
) -> None:
    first, *others = pictures
    first.save(out, form, save_all=True, append_images=others, duration=list(times_ms), **options)


def _in_gif_steps(times_ms: Sequence[int]) -> list[tuple[int, int]]:
    """Return the places of the frames a GIF shows and for how long (ms).

    What rounding takes from one frame is given to the next. Frames too short for browsers are left
    out, never the last, which may be what stays.
    """
    shown, at, end = list[tuple[int, int]](), 0, 0
    for place, ms in enumerate(times_ms):
        end += ms
        lasts = round(end / GIF_STEP_MS) * GIF_STEP_MS - at
        is_last = place == len(times_ms) - 1
        if lasts < SHORTEST_GIF_MS and is_last and shown:
            lasts += shown.pop()[1]
        if lasts >= SHORTEST_GIF_MS or is_last:
            shown.append((place, max(lasts, SHORTEST_GIF_MS)))
            at = round(end / GIF_STEP_MS) * GIF_STEP_MS
    return shown


def _most_opaque(picture: PIL.Image.Image) -> int:
    if picture.mode != "RGBA":
        return 255
    _, most = picture.getchannel("A").getextrema()
    assert isinstance(most, int)
    return most


def _punched(picture: PIL.Image.Image, least: int) -> PIL.Image.Image:
    """Return a picture of a palette, with holes where it is less opaque than `least` levels."""
    indexed = picture.convert("RGB").quantize(255)  # which leaves one colour for the holes
    palette = indexed.getpalette() or []
    hole = len(palette) // 3
    indexed.putpalette([*palette, 0, 0, 0])
    if picture.mode == "RGBA":
        alpha = picture.getchannel("A")
        indexed.paste(hole, mask=alpha.point([255 * (level < least) for level in range(256)]))
    indexed.info["transparency"] = hole
    return indexed
