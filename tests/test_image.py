"""Every kind of picture gives the right colours or the right error."""

from __future__ import annotations

import io
import itertools
import random
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from lantern.errors import BadImage
from lantern.image import FORMATS, LIMITS, Image, Limits

RED, TEAL = (255, 0, 0), (10, 120, 140)


# --- Makers of files ---------------------------------------------------------------------------


def saved(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def plain(mode: str, colour: Any, size: tuple[int, int] = (32, 32)) -> PIL.Image.Image:
    return PIL.Image.new(mode, size, colour)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, kind: int, rows: bytes, *, before: bytes = b"",
    after: bytes = b"",
) -> bytes:  # fmt: skip
    """Write a PNG by hand; `rows` are filter bytes and samples, `kind` is its colour type."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def solid_16_bit(kind: int, *samples: int) -> bytes:
    """Write a PNG of 32 by 32 pixels with 16 bits a sample."""
    row = b"\0" + struct.pack(f">{len(samples)}H", *samples) * 32
    return png(32, 32, 16, kind, row * 32)


def header_only(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, b"\0" * 64)


def profile(space: bytes, curves: dict[bytes, tuple[float, float, float]]) -> bytes:
    """Write an ICC profile whose light is linear; `curves` are its primaries by channel."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))

    identity = b"curv" + bytes(8)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 7) + b"linear\0" + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249),
        b"cprt": b"text\0\0\0\0none\0",
    }
    for name, primary in curves.items():
        tags[name + b"TRC"] = identity
        if space == b"RGB ":
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*primary)
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = 128 + len(table) + len(data)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


LINEAR_RGB = profile(
    b"RGB ",
    {  # the primaries of sRGB seen under D50
        b"r": (0.4360, 0.2225, 0.0139),
        b"g": (0.3851, 0.7169, 0.0971),
        b"b": (0.1431, 0.0606, 0.7141),
    },
)
LINEAR_GREY = profile(b"GRAY", {b"k": (0, 0, 0)})


def exif(orientation: int) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def polyglot() -> bytes:
    script = b"<script>alert(1)</script>"
    picture = plain("RGB", TEAL)
    return saved(picture, "JPEG", comment=script, exif=exif(1) + script) + script


# --- Oracles -----------------------------------------------------------------------------------


def colour_of(data: bytes) -> list[float]:
    """Decode a picture of one colour and return it, 0..255."""
    pixels = Image.decode(data).pixels
    assert pixels.dtype == torch.float32
    assert pixels.shape[0] == 3
    assert (pixels - pixels[:, :1, :1]).abs().max() < 4 / 255
    return [float(v) * 255 for v in pixels[:, 0, 0]]


def srgb(linear: float) -> float:
    """The transfer function of sRGB, IEC 61966-2-1, 0..255."""
    level = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return level * 255


def refusal(data: bytes, read: Callable[[bytes], object] = Image.decode) -> str:
    """Return the code of the error."""
    with pytest.raises(BadImage) as caught:
        read(data)
    assert caught.value.detail
    return caught.value.code


# --- Colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_keep_colours(form: str) -> None:
    data = saved(plain("RGB", TEAL), form, quality=95)
    assert colour_of(data) == pytest.approx(TEAL, abs=4)
    header = Image.probe(data)
    assert (header.width, header.height) == (32, 32)
    assert FORMATS[header.media_type] == form
    assert Image.check(data) == header


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    data = saved(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95)
    assert colour_of(data) == pytest.approx(RED, abs=4)


def test_16_bit_grey_keeps_its_level_and_all_its_steps() -> None:
    assert colour_of(solid_16_bit(0, 40000)) == pytest.approx([40000 / 65535 * 255] * 3, abs=1e-4)
    row = b"\0" + struct.pack(">64H", *range(30000, 30064))
    pixels = Image.decode(png(64, 16, 16, 0, row * 16)).pixels
    assert len(np.unique(pixels[0, 0])) == 64


def test_16_bit_colour_keeps_its_levels() -> None:
    wanted = [v / 257 for v in (60000, 30000, 5000)]
    assert colour_of(solid_16_bit(2, 60000, 30000, 5000)) == pytest.approx(wanted, abs=1)


def test_16_bit_transparency_is_laid_over_white() -> None:
    data = solid_16_bit(6, 60000, 0, 0, 0)
    assert colour_of(data) == [255, 255, 255]
    alpha = Image.decode(data).alpha
    assert alpha is not None
    assert not alpha.any()


def test_a_palette_keeps_its_colours() -> None:
    assert colour_of(saved(plain("RGB", TEAL).quantize(8))) == pytest.approx(TEAL, abs=1)


def test_a_palette_with_a_transparent_colour() -> None:
    picture = plain("P", 0)
    picture.putpalette([*RED, *TEAL])
    picture.paste(1, (0, 0, 16, 32))
    image = Image.decode(saved(picture, transparency=0))
    assert image.alpha is not None
    assert image.alpha[0, 0] == 1
    assert image.alpha[0, 31] == 0
    assert image.to_uint8()[0, 0].tolist() == list(TEAL)
    assert image.to_uint8()[0, 31].tolist() == [255, 255, 255]


def test_grey_with_alpha() -> None:
    image = Image.decode(saved(plain("LA", (100, 51))))
    assert image.alpha is not None
    assert float(image.alpha[3, 3]) == pytest.approx(0.2)
    assert image.pixels[:, 3, 3].tolist() == pytest.approx([100 / 255 * 0.2 + 0.8] * 3)


def test_black_and_white() -> None:
    picture = plain("1", 0)
    picture.paste(1, (0, 0, 16, 32))
    image = Image.decode(saved(picture))
    assert image.to_uint8()[0, [0, 31], 0].tolist() == [255, 0]


def test_transparent_red_over_white_is_white() -> None:
    image = Image.decode(saved(plain("RGBA", (*RED, 0))))
    assert image.to_uint8()[5, 5].tolist() == [255, 255, 255]
    assert image.alpha is not None
    assert image.alpha.shape == (32, 32)
    assert not image.alpha.any()


def test_an_opaque_picture_has_no_alpha() -> None:
    assert Image.decode(saved(plain("RGB", TEAL))).alpha is None


# --- Uprightness -------------------------------------------------------------------------------

# What a reader does to the stored rows, EXIF 2.3 table 6
UPRIGHT: dict[int, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_upright(orientation: int, form: str, picture: Image) -> None:
    stored = picture.to_uint8()
    data = saved(
        PIL.Image.fromarray(stored), form, exif=exif(orientation), quality=100, subsampling=0
    )
    wanted = UPRIGHT[orientation](stored).astype(int)
    got = Image.decode(data).to_uint8().astype(int)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).mean() < (3 if form != "PNG" else 1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "junk", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"\xff" * 64]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_garbage_exif_does_not_cost_the_picture(junk: bytes, form: str) -> None:
    data = saved(plain("RGB", TEAL), form, exif=junk, quality=95)
    assert colour_of(data) == pytest.approx(TEAL, abs=4)


# --- Colour profiles ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_colour_profile_is_converted(form: str) -> None:
    data = saved(plain("RGB", TEAL), form, icc_profile=LINEAR_RGB, quality=95)
    wanted = [srgb(v / 255) for v in TEAL]
    assert wanted != pytest.approx(TEAL, abs=30)
    # four levels of JPEG loss in the dark are steep under this curve
    assert colour_of(data) == pytest.approx(wanted, abs=2 if form == "PNG" else 16)


def test_a_grey_colour_profile_is_converted() -> None:
    data = saved(plain("L", 60), icc_profile=LINEAR_GREY)
    assert colour_of(data) == pytest.approx([srgb(60 / 255)] * 3, abs=2)


def test_a_colour_profile_beside_transparency_is_converted() -> None:
    image = Image.decode(saved(plain("RGBA", (*TEAL, 255)), icc_profile=LINEAR_RGB))
    wanted = [srgb(v / 255) / 255 for v in TEAL]
    assert image.pixels[:, 0, 0].tolist() == pytest.approx(wanted, abs=2 / 255)


@pytest.mark.parametrize(
    "junk", [b"garbage", LINEAR_RGB[:150], LINEAR_GREY], ids=["text", "cut", "unfitting"]
)
def test_a_broken_colour_profile_is_ignored(junk: bytes) -> None:
    assert colour_of(saved(plain("RGB", TEAL), icc_profile=junk)) == pytest.approx(TEAL, abs=1)


# --- Several pictures in one file --------------------------------------------------------------


@pytest.mark.parametrize("form", ["WEBP", "PNG", "GIF"])
def test_the_first_frame_of_an_animation_is_taken(form: str) -> None:
    frames = [plain("RGB", colour) for colour in (TEAL, RED, (0, 0, 255))]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    assert colour_of(data) == pytest.approx(TEAL, abs=1)
    assert Image.decode(data).film == data
    assert Image.decode(saved(frames[0], form)).film is None


def test_a_cameras_jpeg_with_a_second_picture_is_a_jpeg() -> None:
    data = saved(
        plain("RGB", TEAL), "MPO", save_all=True, append_images=[plain("RGB", RED, (16, 16))]
    )
    assert Image.probe(data).media_type == "image/jpeg"
    assert Image.check(data).width == 32
    assert colour_of(data) == pytest.approx(TEAL, abs=4)
    (note,) = Image.decode(data).notes
    assert "2 pictures" in note


# --- Damage and attacks ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("read", [Image.decode, Image.check])
def test_a_truncated_picture_is_refused(
    form: str, read: Callable[[bytes], object], photo: Image
) -> None:
    data = saved(PIL.Image.fromarray(photo.to_uint8()), form)
    assert refusal(data[: len(data) // 2], read) == "undecodable-image"
    assert refusal(data[:20], read) == "undecodable-image"


@pytest.mark.parametrize("read", [Image.decode, Image.check, Image.probe])
@pytest.mark.parametrize(
    ("width", "height", "code"),
    [
        (50_000, 50_000, "image-too-large"),
        (2_000_000_000, 2_000_000_000, "image-too-large"),
        (4400, 3900, "image-too-large"),  # 17 million pixels
        (8193, 100, "image-too-large"),
        (1, 20_000, "image-too-large"),
        (1, 1, "image-too-small"),
        (15, 16, "image-too-small"),
        (16, 129, "image-too-narrow"),
    ],
)
def test_sizes_outside_the_limits_are_refused_by_the_header(
    width: int, height: int, code: str, read: Callable[[bytes], object]
) -> None:
    started = time.perf_counter()
    assert refusal(header_only(width, height), read) == code
    assert time.perf_counter() - started < 0.5


def test_sizes_at_the_limits_are_taken() -> None:
    for width, height in ((16, 128), (16, 16), (4096, 4096)):
        assert Image.probe(header_only(width, height)).width == width
    assert Image.decode(saved(plain("L", 9, (16, 128)))).height == 128


def test_limits_are_the_callers() -> None:
    data = saved(plain("RGB", TEAL))
    with pytest.raises(BadImage, match="at most 100 pixels"):
        Image.decode(data, Limits(max_pixels=100))
    with pytest.raises(BadImage) as caught:
        Image.probe(data, Limits(max_bytes=len(data) - 1))
    assert caught.value.code == "image-too-large"
    assert Image.probe(data, Limits(max_bytes=len(data))).width == 32


def test_more_bytes_than_allowed_are_refused_unread() -> None:
    assert refusal(bytes(LIMITS.max_bytes + 1)) == "image-too-large"


BOMB = zlib.compress(bytes(100_000_000), 9)


@pytest.mark.parametrize("read", [Image.decode, Image.check])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
def test_compressed_chunks_do_not_fill_the_memory(
    name: bytes, place: str, read: Callable[[bytes], object]
) -> None:
    key = b"k\0\1\0\0\0" if name == b"iTXt" else b"k\0\0"
    extra = {place: chunk(name, key + BOMB)}
    data = png(32, 32, 8, 2, (b"\0" + bytes(96)) * 32, **extra)
    tracemalloc.start()
    try:
        with suppress(BadImage):  # a reader may also leave the chunk alone
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("picture.png", saved(plain("RGB", TEAL)))
    return out.getvalue()


@pytest.mark.parametrize("read", [Image.decode, Image.check, Image.probe])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture at all",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"/>',
        b"GIF89a",
        saved(plain("RGB", TEAL), "BMP"),
        saved(plain("RGB", TEAL), "TIFF"),
        zipped(),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\x10\0\0\0WEBPVP8 ",
    ],
    ids="empty text svg gif bmp tiff zip png-start jpeg-start webp-start".split(),
)
def test_what_is_no_picture_is_refused(data: bytes, read: Callable[[bytes], object]) -> None:
    assert refusal(data, read) == "undecodable-image"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("media_type", FORMATS)
def test_what_hides_in_a_file_does_not_come_out(media_type: str) -> None:
    data = polyglot()
    assert data.count(b"<script") == 3
    clean = Image.decode(data).encode(media_type)
    assert b"script" not in clean
    assert b"Exif" not in clean


def seeds_of_mutants(photo: Image) -> list[bytes]:
    small = PIL.Image.fromarray(photo.resize(24, 40).to_uint8())
    frames = [small, small.transpose(PIL.Image.Transpose.ROTATE_180)]
    return [
        saved(small, "JPEG", exif=exif(6), icc_profile=LINEAR_RGB),
        saved(small, "JPEG", progressive=True),
        saved(small.convert("CMYK"), "JPEG"),
        saved(small, "MPO", save_all=True, append_images=frames[1:]),
        saved(small, exif=exif(5), icc_profile=LINEAR_RGB),
        saved(small.quantize(16), transparency=3),
        saved(small.convert("LA")),
        saved(frames[0], save_all=True, append_images=frames[1:]),
        solid_16_bit(0, 40000),
        saved(small, "WEBP", exif=exif(3), icc_profile=LINEAR_RGB),
        saved(small.convert("RGBA"), "WEBP", lossless=True),
        saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if len(changed) < 20:
            break
        at = chance.randrange(len(changed))
        match chance.randrange(5):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                changed[at : at + 4] = struct.pack(">I", chance.choice((0, 1, 2**31, 2**32 - 1)))
            case 2:
                del changed[at : at + chance.randrange(1, 40)]
            case 3:
                changed[at:at] = changed[: chance.randrange(1, 60)]
            case _:
                del changed[max(12, at) :]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_a_picture_or_the_right_error(photo: Image) -> None:
    chance = random.Random(20)
    refused = 0
    for number, seed in zip(range(360), itertools.cycle(seeds_of_mutants(photo))):
        data = mutated(seed, chance)
        try:
            Image.check(data)
        except BadImage:
            refused += 1
            with pytest.raises(BadImage):
                Image.decode(data)
            continue
        # what passed the check must decode
        pixels = Image.decode(data).pixels
        assert torch.isfinite(pixels).all(), number
        assert pixels.min() >= 0, number
        assert pixels.max() <= 1, number
    assert 100 < refused < 350


# --- Encoding ----------------------------------------------------------------------------------


def test_png_brings_back_every_level() -> None:
    levels = torch.arange(768).remainder(256).view(3, 16, 16)
    image = Image(levels / 255)
    again = Image.decode(image.encode("image/png"))
    assert torch.equal(again.pixels, image.pixels)
    assert np.array_equal(again.to_uint8(), image.to_uint8())
    assert np.array_equal(Image.from_uint8(again.to_uint8()).to_uint8(), image.to_uint8())


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/webp"])
def test_quality_trades_bytes_for_closeness(media_type: str, photo: Image) -> None:
    files = [photo.encode(media_type, quality) for quality in (10, 95)]
    errors = [float((Image.decode(f).pixels - photo.pixels).abs().mean()) for f in files]
    assert len(files[0]) < len(files[1])
    assert errors[1] < errors[0]
    assert errors[1] < 3 / 255
    assert Image.probe(files[0]).media_type == media_type


@pytest.mark.parametrize("media_type", FORMATS)
def test_alpha_is_kept_where_the_format_can(media_type: str, picture: Image) -> None:
    alpha = torch.zeros(24, 32)
    alpha[:, :16] = 1
    again = Image.decode(Image(picture.pixels, alpha=alpha).encode(media_type))
    if media_type == "image/jpeg":
        assert again.alpha is None
    else:
        assert again.alpha is not None
        assert torch.equal(again.alpha, alpha)
        assert again.pixels[:, :, 20:].min() == 1


@pytest.mark.parametrize("alpha", [0, 40, 128, 254, 255])
def test_half_transparent_colours_come_out_as_they_went_in(alpha: int) -> None:
    image = Image.decode(saved(plain("RGBA", (*TEAL, alpha))))
    with PIL.Image.open(io.BytesIO(image.encode("image/png"))) as again:
        *colour, opacity = np.asarray(again.convert("RGBA"))[3, 3].tolist()
    assert opacity == alpha
    if alpha:
        assert colour == pytest.approx(TEAL, abs=1)
    assert Image.decode(image.encode("image/png")).pixels.sub(image.pixels).abs().max() < 1 / 255


@pytest.mark.parametrize("media_type", ["image/png", "image/webp"])
@pytest.mark.parametrize("opacity", [0.1, 0.4, 0.8])
def test_repainted_pictures_have_the_colours_they_were_given(
    media_type: str, opacity: float
) -> None:
    clear = Image(torch.ones(3, 24, 32), alpha=torch.full((24, 32), opacity))
    colours = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 24, 32)
    made = clear.repainted(colours)
    with PIL.Image.open(io.BytesIO(made.encode(media_type, 100))) as again:
        *levels, alpha = np.asarray(again.convert("RGBA"))[12, 16].tolist()
    assert alpha == round(255 * opacity)
    assert levels == pytest.approx([26, 128, 230], abs=1 if media_type == "image/png" else 6)
    assert torch.allclose(made.pixels, opacity * colours + (1 - opacity))


def test_what_is_transparent_takes_the_colours_around_it() -> None:
    alpha = torch.zeros(40, 60)
    alpha[10:20, 10:20], alpha[25:35, 45:55] = 1.0, 0.4
    colours = torch.zeros(3, 40, 60)
    colours[0, :, :30], colours[2, :, 30:] = 0.8, 0.7
    clear = Image(torch.zeros(3, 40, 60), alpha=alpha).repainted(colours)
    ground = clear.opaque()
    assert ground.alpha is None
    assert torch.allclose(ground.pixels[:, 10:20, 10:20], colours[:, 10:20, 10:20], atol=1e-5)
    assert torch.allclose(ground.pixels[:, 25:35, 45:55], colours[:, 25:35, 45:55], atol=1e-5)
    # its edges go on outwards, and nothing is white or black
    assert ground.pixels[0, 8:22, 8:22].min() > 0.6
    assert ground.pixels.sum(0).min() > 0.6
    assert ground.pixels[1].max() < 1e-5


def test_an_opaque_picture_is_its_own_ground(picture: Image) -> None:
    assert picture.opaque() is picture
    covered = Image(picture.pixels, alpha=torch.ones(24, 32))
    assert torch.allclose(covered.opaque().pixels, picture.pixels, atol=1e-6)
    nothing = Image(torch.ones(3, 24, 32), alpha=torch.zeros(24, 32))
    assert torch.isfinite(nothing.opaque().pixels).all()


def test_values_are_rounded_and_clipped() -> None:
    levels = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 3.0])
    image = Image(levels.view(1, 1, 6).expand(3, 1, 6))
    assert image.to_uint8()[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


# --- Sizes -------------------------------------------------------------------------------------


def size(image: Image) -> tuple[int, int]:
    return image.height, image.width


def test_fit_shrinks_and_never_enlarges(picture: Image) -> None:
    assert size(picture.fit(16)) == (12, 16)
    assert picture.fit(32) is picture
    assert picture.fit(4000) is picture
    assert size(Image(torch.zeros(3, 400, 2)).fit(100)) == (100, 1)


def test_cover_gives_the_shorter_side(picture: Image) -> None:
    assert size(picture.cover(12)) == (12, 16)
    assert size(picture.cover(48)) == (48, 64)
    assert size(Image(torch.zeros(3, 30, 20)).cover(10)) == (15, 10)


def test_crop_cuts_out_the_box(picture: Image) -> None:
    alpha = picture.pixels[0]
    part = Image(picture.pixels, alpha=alpha, notes=("n",)).crop(3, 5, 10, 12)
    assert torch.equal(part.pixels, picture.pixels[:, 3:13, 5:17])
    assert part.alpha is not None
    assert torch.equal(part.alpha, alpha[3:13, 5:17])
    assert part.notes == ("n",)


def test_resize_keeps_range_alpha_and_mean(photo: Image) -> None:
    alpha = torch.full((photo.height, photo.width), 0.5)
    small = Image(photo.pixels, alpha=alpha).resize(20, 31)
    assert size(small) == (20, 31)
    assert small.alpha is not None
    assert torch.allclose(small.alpha, torch.full((20, 31), 0.5), atol=1e-6)
    assert small.pixels.mean((1, 2)).tolist() == pytest.approx(
        photo.pixels.mean((1, 2)).tolist(), abs=0.01
    )
    assert photo.resize(photo.height, photo.width) is photo


def test_resize_does_not_overshoot() -> None:
    edge = torch.zeros(3, 16, 16)
    edge[:, :, 8:] = 1
    pixels = Image(edge).resize(64, 64).pixels
    assert pixels.min() == 0
    assert pixels.max() == 1


def test_shrinking_is_antialiased() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(3, 64, 64)
    assert (Image(board).resize(16, 16).pixels - 0.5).abs().max() < 0.02


def test_warnings_of_the_decoder_are_not_passed_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refusal(header_only(12_000, 12_000))  # Pillow warns of a bomb here
