"""One picture: decoded with limits, upright, sRGB, floating point. PIL is used here."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
import torch
import torch.nn.functional as F

from lantern.errors import BadImage
from lantern.transparency import opaque, over_white, without_white

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
FORMATS = {media_type: name for name, media_type in MEDIA_TYPES.items()}
GIF = "image/gif"
# What is read; pictures are not written as GIF, animations are.
READ = {**MEDIA_TYPES, "GIF": GIF}
SUFFIXES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": GIF,
}
# Blocks of a GIF, and how many of its frames are counted at most.
EXTENSION, IMAGE, MOST_COUNTED = 0x21, 0x2C, 1000
DAMAGED = "the picture is damaged or cut short; send the whole file or save it again"


@dataclass(frozen=True)
class Limits:
    """What a picture from outside may be: bytes, pixels, sides (px) and aspect ratio."""

    max_bytes: int = 12 * 1024 * 1024
    max_pixels: int = 16_777_216
    min_side: int = 16
    max_side: int = 8192
    max_aspect: float = 8.0


LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded; sides in pixels, as stored."""

    media_type: str
    width: int
    height: int
    frames: int = 1


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: `pixels` float32 `[3,H,W]`, sRGB, 0..1; `alpha` float32 `[H,W]`, 0..1, or None.

    Transparent parts of `pixels` are laid over white; `alpha` says how much of that is white. To
    repaint a picture see `opaque` and `repainted`. `notes` say what decoding had to leave out. Of
    an animation this is the first frame; the file with the others is `film`.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None = None
    notes: tuple[str, ...] = ()
    film: bytes | None = None

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.pixels.shape[1])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.pixels.shape[2])

    @staticmethod
    def probe(data: bytes, limits: Limits = LIMITS) -> Header:
        """Read only the header: media type and size, checked against the limits.

        Raises:
            BadImage: not a JPEG, PNG, WebP or GIF, or outside the limits.
        """
        with _open(data, limits) as picture:
            return _header(picture, data)

    @staticmethod
    def check(data: bytes, limits: Limits = LIMITS) -> Header:
        """Decode once and forget the pixels: the proof that a later `decode` will work.

        Raises:
            BadImage: undecodable, truncated, or outside the limits.
        """
        with _open(data, limits) as picture:
            header = _header(picture, data)
            _load(picture)
            return header

    @staticmethod
    def decode(data: bytes, limits: Limits = LIMITS, needed: int | None = None) -> Image:
        """Decode JPEG, PNG, WebP or GIF bytes, turned upright and converted to sRGB.

        CMYK, palette, 1-bit and 16-bit pictures keep their colours; of an animation the first
        frame is taken. Where no longer side than `needed` px will be used, a larger JPEG is decoded
        at a half, a quarter or an eighth of its size, which takes a fraction of the time.

        Raises:
            BadImage: undecodable, truncated, or outside the limits.
        """
        with _open(data, limits) as picture:
            notes, is_film = _notes(picture), _frames(picture, data) > 1
            if needed is not None and picture.format == "JPEG":
                scale = needed / max(picture.size)
                picture.draft(None, (round(picture.width * scale), round(picture.height * scale)))
            _load(picture)
            try:
                image = of_picture(picture, notes)
                return replace(image, film=bytes(data)) if is_film else image
            except (ValueError, OSError, SyntaxError, MemoryError) as error:
                raise BadImage("the picture's pixels cannot be read; save it again") from error

    @staticmethod
    def from_uint8(array: np.ndarray[Any, Any]) -> Image:
        """Make a picture from uint8 `[H,W,3]`, sRGB."""
        return Image(_planes(array))

    def to_uint8(self) -> np.ndarray[Any, Any]:
        """Return uint8 `[H,W,3]`, rounded to the nearest of 256 levels."""
        levels = self.pixels.detach().clamp(0, 1).mul_(255).round_().to(torch.uint8)
        return levels.permute(1, 2, 0).contiguous().cpu().numpy()

    def resize(self, height: int, width: int) -> Image:
        """Resample to `height` x `width` pixels, bicubic with antialiasing."""
        if (height, width) == (self.height, self.width):
            return self
        alpha = None if self.alpha is None else _resample(self.alpha[None], height, width)[0]
        return replace(self, pixels=_resample(self.pixels, height, width), alpha=alpha)

    def fit(self, longest: int) -> Image:
        """Shrink so that the longer side is at most `longest` pixels; never enlarges."""
        scale = longest / max(self.height, self.width)
        if scale >= 1:
            return self
        return self.resize(max(1, round(self.height * scale)), max(1, round(self.width * scale)))

    def cover(self, shortest: int) -> Image:
        """Resample so that the shorter side is exactly `shortest` pixels."""
        return self.resize(*covering((self.height, self.width), shortest))

    def crop(self, top: int, left: int, height: int, width: int) -> Image:
        """Cut out a box given in pixels."""
        box = (slice(top, top + height), slice(left, left + width))
        alpha = None if self.alpha is None else self.alpha[box]
        return replace(self, pixels=self.pixels[(slice(None), *box)], alpha=alpha)

    def opaque(self) -> Image:
        """Return the picture in its own colours, without the white behind it and without alpha.

        What is transparent takes the colours around it, so that edges take up no other ones.
        """
        if self.alpha is None:
            return self
        return replace(self, pixels=opaque(self.pixels, self.alpha), alpha=None)

    def repainted(self, colours: torch.Tensor) -> Image:
        """Return the picture in other colours `[3,H,W]`, as transparent as it is."""
        pixels = colours if self.alpha is None else over_white(colours, self.alpha)
        return replace(self, pixels=pixels)

    def to_pil(self) -> PIL.Image.Image:
        """Return the picture as PIL has it: RGB, or RGBA where there is alpha."""
        if self.alpha is None:
            return PIL.Image.fromarray(self.to_uint8())
        own = replace(self, pixels=without_white(self.pixels, self.alpha))
        picture = PIL.Image.fromarray(own.to_uint8())
        levels = self.alpha.clamp(0, 1).mul(255).round().to(torch.uint8)
        picture.putalpha(PIL.Image.fromarray(levels.cpu().numpy()))
        return picture

    def encode(self, media_type: str = "image/png", quality: int = 90) -> bytes:
        """Return the file's bytes; `quality` 1..100 is for JPEG and WebP. JPEG drops alpha."""
        is_jpeg = media_type == "image/jpeg"
        picture = PIL.Image.fromarray(self.to_uint8()) if is_jpeg else self.to_pil()
        out = io.BytesIO()
        picture.save(out, format=FORMATS[media_type], **save_options(media_type, quality))
        return out.getvalue()


def covering(size: tuple[int, int], shortest: int) -> tuple[int, int]:
    """Return height and width of a picture whose shorter side becomes `shortest` pixels."""
    scale = shortest / min(size)
    height, width = (max(shortest, round(side * scale)) for side in size)
    return height, width


def caption(text: str, width: int) -> Image:
    """Write a line of text, dark on white, at most `width` px wide; what does not fit is cut."""
    size = min(20, max(10, width // 16))
    font = PIL.ImageFont.load_default(size)
    shown = text
    while shown and font.getlength(shown) > width - 4:
        shown = shown.removesuffix("…")[:-1] + "…" if len(shown) > 1 else ""
    strip = PIL.Image.new("RGB", (width, size + 6), "white")
    PIL.ImageDraw.Draw(strip).text((2, size + 1), shown, fill=(40, 40, 40), font=font, anchor="ls")
    return Image(_planes(np.asarray(strip)))


def save_options(media_type: str, quality: int) -> dict[str, int]:
    """Return what PIL is told when it writes a picture."""
    # PNG level 6 costs three times level 1 for a tenth of the bytes; WebP method 4 likewise.
    return {
        "image/jpeg": {"quality": quality},
        "image/png": {"compress_level": 1},
        "image/webp": {"quality": quality, "method": 1},
    }[media_type]


def _open(data: bytes, limits: Limits) -> PIL.Image.Image:
    if len(data) > limits.max_bytes:
        raise BadImage(
            f"the picture has {len(data)} bytes; at most {limits.max_bytes} are taken: "
            "shrink it or save it with a lower quality",
            code="image-too-large",
        )
    if not data:
        raise BadImage("the picture is empty; send the bytes of a JPEG, PNG, WebP or GIF file")
    try:
        with warnings.catch_warnings():
            # Our own limit on pixels follows and is stricter than PIL's warning.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            picture = PIL.Image.open(io.BytesIO(data), formats=tuple(READ))
    except PIL.Image.DecompressionBombError as error:
        raise BadImage(_too_many_pixels(limits), code="image-too-large") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        raise BadImage(
            "the bytes are not a readable JPEG, PNG, WebP or GIF picture; save it again as one of "
            "these"
        ) from error
    _check_size(picture, limits)
    return picture


def _check_size(picture: PIL.Image.Image, limits: Limits) -> None:
    width, height = picture.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise BadImage(
            f"the picture is {width}x{height} px; {_too_many_pixels(limits)}",
            code="image-too-large",
        )
    short, long = sorted((width, height))
    if short < limits.min_side:
        raise BadImage(
            f"the picture is {width}x{height} px; each side must be at least {limits.min_side} px: "
            "enlarge it first",
            code="image-too-small",
        )
    if long > short * limits.max_aspect:
        raise BadImage(
            f"the picture is {width}x{height} px; the longer side may be at most "
            f"{limits.max_aspect:g} times the shorter: crop it first",
            code="image-too-narrow",
        )


def _too_many_pixels(limits: Limits) -> str:
    return (
        f"at most {limits.max_pixels} pixels and {limits.max_side} px a side are taken: "
        "shrink it first"
    )


def _load(picture: PIL.Image.Image) -> None:
    try:
        picture.load()
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        raise BadImage(DAMAGED) from error


def _header(picture: PIL.Image.Image, data: bytes) -> Header:
    # Pillow opens a camera's JPEG that carries a second picture under the format "MPO"
    media_type = READ.get(str(picture.format), "image/jpeg")
    return Header(media_type, *picture.size, frames=_frames(picture, data))


def _frames(picture: PIL.Image.Image, data: bytes) -> int:
    """Count the frames of an animation, of a GIF up to `MOST_COUNTED`; 1 where it is none."""
    if picture.format == "GIF":
        return _gif_frames(data)
    return getattr(picture, "n_frames", 1) if picture.format in READ else 1


def _gif_frames(data: bytes) -> int:
    """Count the image blocks of a GIF; Pillow goes through all of them, of which there may be
    hundreds of thousands.

    Source: GIF89a specification, sections 17 to 26.
    """
    frames, at = 0, 13 + _table(data[10])
    try:
        while data[at] in (EXTENSION, IMAGE) and frames < MOST_COUNTED:
            if data[at] == IMAGE:
                frames += 1
                at += 11 + _table(data[at + 9])
            else:
                at += 2
            while data[at]:  # pieces of up to 255 bytes
                at += data[at] + 1
            at += 1
    except IndexError:  # cut short: decoding will tell
        pass
    return max(1, frames)


def _table(flags: int) -> int:
    """Return the bytes of a colour table by the flags before it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _notes(picture: PIL.Image.Image) -> tuple[str, ...]:
    pictures = 1 if picture.format in READ else getattr(picture, "n_frames", 1)
    if pictures == 1:
        return ()
    return (f"the file holds {pictures} pictures; only the first is used",)


def of_picture(picture: PIL.Image.Image, notes: tuple[str, ...] = ()) -> Image:
    """Turn a picture that PIL has decoded upright and into ours."""
    return _to_image(_upright(picture), notes)


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(picture)
    except Exception:  # garbage EXIF must not cost the picture
        return picture


def _to_image(picture: PIL.Image.Image, notes: tuple[str, ...]) -> Image:
    if picture.mode in ("I;16", "I;16B", "I;16L", "I"):
        return Image(_sixteen_bit(picture), notes=notes)
    if picture.has_transparency_data:
        return _with_alpha(picture, notes)
    return Image(_planes(np.asarray(_to_srgb(picture))), notes=notes)


def _sixteen_bit(picture: PIL.Image.Image) -> torch.Tensor:
    # convert("RGB") would clip every value above 255 to white
    grey = np.asarray(picture).astype(np.float32) / 65535.0
    return torch.from_numpy(grey).clamp(0, 1).expand(3, -1, -1).contiguous()


def _with_alpha(picture: PIL.Image.Image, notes: tuple[str, ...]) -> Image:
    rgba = picture.convert("RGBA")
    alpha = torch.from_numpy(np.array(rgba.getchannel("A"))).float().div(255)
    opaque = rgba.convert("RGB")
    opaque.info = picture.info
    colour = _planes(np.asarray(_to_srgb(opaque)))
    return Image(over_white(colour, alpha), alpha=alpha, notes=notes)


def _to_srgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "L", "CMYK") and b"sRGB" not in profile:
        try:
            converted = PIL.ImageCms.profileToProfile(
                picture,
                PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                PIL.ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (PIL.ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken or unfitting profile is ignored, as browsers do
        if converted is not None:
            return converted
    return picture.convert("RGB")


def _planes(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # sorted by colour while a value is one byte, not four
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).contiguous().float().div_(255)


def _resample(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    out = F.interpolate(
        planes[None], size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return out[0].clamp(0, 1)
