"""Animations: their frames in and out. PIL is used here, and for pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import PIL.ImageSequence

from lantern.errors import BadImage
from lantern.image import FORMATS, GIF, Image, of_picture, save_options

# What an animation from outside may have: frames, and pixels of all of them.
MOST_FRAMES, MOST_PIXELS = 240, 2**26
# Browsers show frames that claim less time than this (ms) for a tenth of a second.
SHORTEST_MS, USUAL_MS = 11, 100


@dataclass(frozen=True)
class Frame:
    """A picture of an animation and how long it is shown, in milliseconds."""

    image: Image
    ms: int


def frames_of(image: Image) -> list[Frame]:
    """Return all frames of the animation that a picture is the first of.

    Raises:
        BadImage: it has too many frames or pixels, or one is damaged.
    """
    assert image.film is not None, "this is no animation"
    found: list[Frame] = []
    try:
        with PIL.Image.open(io.BytesIO(image.film)) as animation:
            for frame in PIL.ImageSequence.Iterator(animation):
                picture = of_picture(frame)  # first: only then is the time of a WebP's known
                ms = round(frame.info.get("duration", 0))
                found.append(Frame(picture, ms if ms >= SHORTEST_MS else USUAL_MS))
                check_length(len(found), image.width, image.height)
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        raise BadImage(
            f"frame {len(found)} of the animation is damaged or cut short; save it again"
        ) from error
    return found


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
    frames: Sequence[Image], media_type: str, *, times_ms: Sequence[int], quality: int = 90
) -> bytes:
    """Return an endless animation, WebP or GIF, of pictures of one size; alpha is left out."""
    pictures = [PIL.Image.fromarray(frame.to_uint8()) for frame in frames]
    return _save_frames(pictures, times_ms, media_type, quality)


def recode_frames(data: bytes, media_type: str, quality: int = 90) -> bytes:
    """Turn an animation of our own into another form, all frames and their times kept."""
    with PIL.Image.open(io.BytesIO(data)) as animation:
        pictures, times = [], []
        for frame in PIL.ImageSequence.Iterator(animation):
            pictures.append(frame.convert("RGB"))
            times.append(round(frame.info.get("duration", 0)))
    return _save_frames(pictures, times, media_type, quality)


def _save_frames(
    pictures: list[PIL.Image.Image], times_ms: Sequence[int], media_type: str, quality: int
) -> bytes:
    out = io.BytesIO()
    form = "GIF" if media_type == GIF else FORMATS[media_type]
    options = {} if media_type == GIF else save_options(media_type, quality)
    pictures[0].save(
        out, form, save_all=True, append_images=pictures[1:], duration=list(times_ms), loop=0,
        **options,
    )  # fmt: skip
    return out.getvalue()
