"""Every piece of a result becomes the bytes it should."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import safetensors
import safetensors.torch
import torch

from lantern.animation import recode_frames
from lantern.artifact import (
    FORMS,
    PLAIN,
    SAFETENSORS,
    Animation,
    Artifact,
    Grid,
    Heatmap,
    NotAcceptable,
    Picture,
    Rendering,
    Result,
    Table,
    Weights,
    numbered,
)
from lantern.call import choose
from lantern.colour import colourise
from lantern.errors import AnswerTooLarge
from lantern.image import FORMATS, GIF, Image, Limits
from lantern.params import Params

TINY = Limits(min_side=1)
ROWS = ({"class": 285, "label": "cat", "probability": 0.75}, {"class": 1, "label": "dog", "probability": 0.25})  # fmt: skip  # noqa: E501


@pytest.fixture
def field() -> torch.Tensor:
    return torch.linspace(-2, 5, 24 * 32).view(24, 32)


@pytest.fixture
def heatmap(picture: Image, field: torch.Tensor) -> Heatmap:
    return Heatmap("map", field, picture)


def png_of(artifact: Heatmap | Picture, rendering: Rendering = PLAIN) -> np.ndarray[Any, Any]:
    return Image.decode(artifact.encode("image/png", rendering)).to_uint8().astype(int)


@pytest.mark.parametrize("media_type", FORMATS)
def test_a_picture_becomes_every_format(media_type: str, picture: Image) -> None:
    made = Picture("picture", picture).encode(media_type)
    assert Image.probe(made).media_type == media_type
    assert np.abs(Image.decode(made).pixels.numpy() - picture.pixels.numpy()).mean() < 0.02


def test_an_opaque_picture_is_a_jpeg_first_and_a_transparent_one_a_png(picture: Image) -> None:
    assert Picture("p", picture).media_types[0] == "image/jpeg"
    clear = Picture("p", Image(picture.pixels, alpha=torch.zeros(24, 32)))
    assert clear.media_types == ("image/png", "image/webp", "image/jpeg")


def test_a_picture_that_must_lose_nothing_is_a_png_first(picture: Image) -> None:
    made = Picture("p", picture, lossless=True)
    assert made.media_types == ("image/png", "image/webp", "image/jpeg")
    assert choose(made, ["image/*"]) == "image/png"
    assert choose(made, ["image/jpeg"]) == "image/jpeg"
    assert [p.lossless for p in numbered("p", [picture] * 2, lossless=True)] == [True, True]


def test_quality_reaches_the_encoder(photo: Image) -> None:
    sizes = [
        len(Picture("p", photo).encode("image/jpeg", Rendering(quality=q))) for q in (5, 50, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 3


def test_a_heat_map_alone_is_its_colours(heatmap: Heatmap, field: torch.Tensor) -> None:
    alone = Rendering(overlay=False, colormap="viridis", quantile=0.9)
    wanted = Image(colourise(field, "viridis", quantile=0.9)).to_uint8()
    assert np.array_equal(png_of(heatmap, alone), wanted)


@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_a_heat_map_is_laid_over_the_picture(
    opacity: float, heatmap: Heatmap, picture: Image
) -> None:
    colours = png_of(heatmap, Rendering(overlay=False))
    wanted = picture.to_uint8() * (1 - opacity) + colours * opacity
    assert np.abs(png_of(heatmap, Rendering(opacity=opacity)) - wanted).max() <= 1


def test_a_heat_map_keeps_its_sign(heatmap: Heatmap) -> None:
    assert heatmap.bounds == (-2, 5)
    assert heatmap.arrays()["map"].dtype == np.float32
    assert heatmap.arrays()["map"].min() == -2


def test_a_table_is_json() -> None:
    table = Table("classes", ROWS)
    assert json.loads(table.encode("application/json")) == list(ROWS)
    assert {name: values.tolist() for name, values in table.arrays().items()} == {
        "classes.class": [285, 1],
        "classes.probability": [0.75, 0.25],
    }
    assert Table("nothing").arrays() == {}
    assert json.loads(Table("nothing").encode("application/json")) == []


def test_a_form_that_does_not_exist_is_refused(heatmap: Heatmap) -> None:
    with pytest.raises(NotAcceptable, match="of the heatmap map; ask for image/jpeg, image/png"):
        heatmap.encode("application/json")
    with pytest.raises(NotAcceptable, match="ask for application/json"):
        Table("classes", ROWS).encode("image/png")
    with pytest.raises(NotAcceptable):
        heatmap.encode("image/gif")


def test_what_is_not_finite_is_told(picture: Image, field: torch.Tensor) -> None:
    assert Heatmap("map", field, picture).is_finite()
    field[3, 4] = torch.nan
    assert not Heatmap("map", field, picture).is_finite()
    assert not Table("t", ({"a": 1.0}, {"a": float("inf")})).is_finite()
    assert Table("t", ({"a": "text"},)).is_finite()


def test_raw_arrays_are_kept_as_they_are(heatmap: Heatmap, picture: Image) -> None:
    result = Result("t", Params(), 0, (heatmap, Picture("p", picture), Table("classes", ROWS)), {})
    with np.load(io.BytesIO(result.npz()), allow_pickle=False) as arrays:
        assert set(arrays) == {"map", "p", "classes.class", "classes.probability"}
        assert np.array_equal(arrays["map"], heatmap.values.numpy())
        assert np.array_equal(arrays["p"], picture.pixels.numpy())
        assert arrays["classes.class"].tolist() == [285, 1]
    assert result.principal is heatmap


def test_arrays_that_are_too_large_are_not_made_a_file(
    heatmap: Heatmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Result("t", Params(), 0, (heatmap,), {})
    assert len(result.npz(heatmap.values.nbytes)) > heatmap.values.nbytes
    monkeypatch.delattr(np, "savez")
    with pytest.raises(AnswerTooLarge, match=f"{heatmap.values.nbytes} bytes"):
        result.npz(heatmap.values.nbytes - 1)


# --- Grids -------------------------------------------------------------------------------------


def greys(*levels: float, height: int = 6, width: int = 10) -> torch.Tensor:
    """Return pictures of one level each: `[N,3,h,w]`."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, height, width).clone()


def test_a_grid_tiles_its_pictures_row_by_row() -> None:
    grid = Grid("g", greys(0.0, 0.2, 0.4, 0.6, 0.8), columns=3)
    sheet = Image.decode(grid.encode("image/png"), TINY).to_uint8()
    assert sheet.shape == (6 + 2 + 6, 10 + 2 + 10 + 2 + 10, 3)
    for number, level in enumerate([0, 51, 102, 153, 204, 255]):  # and white where none is left
        top, left = 8 * (number // 3), 12 * (number % 3)
        assert (sheet[top : top + 6, left : left + 10] == level).all(), number
    gap = np.concatenate([sheet[6:8].ravel(), sheet[:, 10:12].ravel(), sheet[:, 22:24].ravel()])
    assert len(set(gap.tolist())) == 1
    assert 200 < gap[0] < 255


@pytest.mark.parametrize(
    ("count", "columns", "tiles"),
    [
        (1, 1, (1, 1)),
        (1, 9, (1, 1)),
        (4, 2, (2, 2)),
        (3, 9, (1, 3)),
        (5, 1, (5, 1)),
        (7, 3, (3, 3)),
    ],
)
def test_a_grid_has_as_many_rows_and_columns_as_it_needs(
    count: int, columns: int, tiles: tuple[int, int]
) -> None:
    sheet = Grid("g", greys(*[0.5] * count), columns).sheet()
    assert (sheet.height, sheet.width) == (8 * tiles[0] - 2, 12 * tiles[1] - 2)


def test_captions_stand_below_their_pictures() -> None:
    images = greys(0.0, 0.0, 0.0, height=40, width=60)
    plain = Grid("g", images, 2).sheet().to_uint8()
    sheet = Grid("g", images, 2, ("one", "", "i")).sheet().to_uint8()
    strip = (sheet.shape[0] - plain.shape[0]) // 2
    assert strip >= 10
    ink = [
        int((sheet[top + 40 : top + 40 + strip, left : left + 60] < 128).sum())
        for top, left in ((0, 0), (0, 62), (42 + strip, 0))
    ]
    assert ink[0] > ink[2] > ink[1] == 0
    assert (sheet[:40, :60] == 0).all()


def test_a_caption_that_is_too_long_is_cut_not_squeezed() -> None:
    images = greys(0.0, height=20, width=80)
    short, long, longer = (
        Grid("g", images, 1, (text,)).sheet().to_uint8() for text in ("wow", "wow" * 9, "wow" * 99)
    )
    assert short.shape == long.shape
    assert np.array_equal(long, longer)
    assert np.array_equal(short[20:, :20], long[20:, :20])  # the letters are as large
    assert (long[20:, -2:] == 255).all()
    for text in ("", "漢字 🎨 \n", "x"):
        Grid("g", greys(0.0, height=4, width=4), 1, (text,)).sheet()


def test_a_grid_keeps_its_numbers() -> None:
    images = torch.rand(3, 3, 6, 10)
    made = Grid("g", images, 2, ("a", "b", "c")).arrays()
    assert np.array_equal(made["g"], images.numpy())
    assert made["g"].dtype == np.float32
    assert Grid("g", images, 2).is_finite()
    images[1, 2, 3, 4] = torch.inf
    assert not Grid("g", images, 2).is_finite()


@pytest.mark.parametrize("media_type", FORMATS)
def test_a_grid_becomes_every_format(media_type: str) -> None:
    body = Grid("g", greys(0.1, 0.9), 2).encode(media_type)
    assert PIL.Image.open(io.BytesIO(body)).get_format_mimetype() == media_type


def test_a_sheet_too_large_for_webp_says_so() -> None:
    long = Grid("g", greys(*[0.5] * 1400, width=2), 1400 * 8)
    wide = Grid("g", greys(*[0.5] * 1400, width=12), 1400 * 8)
    assert long.media_types == tuple(FORMATS)
    assert wide.media_types == ("image/jpeg", "image/png")
    with pytest.raises(NotAcceptable):
        wide.encode("image/webp")
    wide.encode("image/jpeg")


@pytest.mark.parametrize(
    ("shape", "columns", "captions"),
    [((0, 3, 4, 4), 1, ()), ((3, 4, 4), 1, ()), ((1, 3, 4, 4), 0, ()), ((2, 3, 4, 4), 1, ("a",))],
)
def test_what_is_no_grid_is_refused(
    shape: tuple[int, ...], columns: int, captions: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match="a grid has"):
        Grid("g", torch.zeros(shape), columns, captions)


# --- Animations --------------------------------------------------------------------------------


@pytest.fixture
def film(picture: Image) -> Animation:
    return Animation("film", tuple(Image(picture.pixels * n / 4) for n in range(5)), frame_ms=70)


def frames_of(body: bytes) -> list[tuple[float, np.ndarray[Any, Any]]]:
    """Read every frame of an animation: how long it is shown, and its pixels."""
    with PIL.Image.open(io.BytesIO(body)) as opened:
        read = (  # its time is known once a frame is read
            (np.asarray(frame.convert("RGB")).astype(int), frame.info["duration"])
            for frame in PIL.ImageSequence.Iterator(opened)
        )
        return [(duration, pixels) for pixels, duration in read]


@pytest.mark.parametrize("media_type", ["image/webp", GIF])
def test_an_animation_has_all_its_frames(media_type: str, film: Animation) -> None:
    body = film.encode(media_type)
    with PIL.Image.open(io.BytesIO(body)) as opened:
        assert opened.get_format_mimetype() == media_type
        assert opened.info["loop"] == 0
    frames = frames_of(body)
    assert [duration for duration, _ in frames] == [70] * 5
    for (_, seen), frame in zip(frames, film.frames, strict=True):
        assert np.abs(seen - frame.to_uint8()).mean() < 4


def test_a_gif_is_made_of_a_webp_with_all_its_frames(film: Animation) -> None:
    frames = frames_of(recode_frames(film.encode("image/webp"), GIF))
    assert [duration for duration, _ in frames] == [70] * 5
    for (_, seen), frame in zip(frames, film.frames, strict=True):
        assert np.abs(seen - frame.to_uint8()).mean() < 5


@pytest.mark.parametrize("media_type", ["image/webp", GIF])
def test_frames_that_stand_still_keep_their_time(media_type: str, picture: Image) -> None:
    dark = Image(picture.pixels * 0.3)
    body = Animation("film", (picture, picture, dark, dark, dark), 50).encode(media_type)
    assert sum(duration for duration, _ in frames_of(body)) == 250
    assert sum(duration for duration, _ in frames_of(recode_frames(body, GIF))) == 250


def test_an_animation_is_webp_first_and_no_still(film: Animation) -> None:
    assert film.media_types == ("image/webp", GIF)
    for media_type in ("image/jpeg", "image/png", "application/json"):
        with pytest.raises(
            NotAcceptable, match="of the animation film; ask for image/webp, image/g"
        ):
            film.encode(media_type)


def test_quality_reaches_an_animation(photo: Image) -> None:
    film = Animation("film", (photo, Image(photo.pixels.flip(2))), 100)
    sizes = [len(film.encode("image/webp", Rendering(quality=q))) for q in (5, 50, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


def test_an_animation_keeps_its_numbers(film: Animation, picture: Image) -> None:
    made = film.arrays()["film"]
    assert (made.shape, made.dtype) == ((5, 3, 24, 32), np.float32)
    assert np.array_equal(made[4], picture.pixels.numpy())
    assert film.array_bytes() == made.nbytes
    assert film.is_finite()
    bad = Image(torch.full((3, 24, 32), torch.nan))
    assert not Animation("film", (picture, bad), 70).is_finite()


def test_what_is_no_animation_is_refused(picture: Image) -> None:
    for frames, frame_ms in (((), 1), ((picture, picture.resize(9, 9)), 1), ((picture,), 0)):
        with pytest.raises(ValueError, match="an animation has frames"):
            Animation("film", frames, frame_ms)


# --- Weights -----------------------------------------------------------------------------------


def test_weights_are_a_safetensors_file() -> None:
    shared = torch.arange(12.0).view(3, 4)
    tensors = {"b": shared.T, "a.weight": shared, "half": shared[0].half().requires_grad_()}
    weights = Weights("net", tensors, {"steps": "9", "arch": "small", "é": "ü"})
    assert weights.media_types == (SAFETENSORS,)
    body = weights.encode(SAFETENSORS)
    read = safetensors.torch.load(body)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert read["half"].dtype == torch.float16


def test_a_weights_file_says_what_is_known_of_it(tmp_path: Any) -> None:
    facts = {"steps": "9", "arch": "small", "é": "ü"}
    path = tmp_path / "net.safetensors"
    path.write_bytes(Weights("net", {"a": torch.ones(3)}, facts).encode(SAFETENSORS))
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == facts
        assert opened.get_tensor("a").tolist() == [1, 1, 1]


def test_the_same_weights_are_the_same_bytes_in_every_process() -> None:
    """The writer orders metadata by a hash that differs from process to process."""
    code = (
        "import hashlib, torch; from lantern.artifact import Weights, SAFETENSORS;"
        "w = Weights('n', {'b': torch.ones(3), 'a': torch.ones(2)}, {c: c for c in 'hgfedcba'});"
        "print(hashlib.sha256(w.encode(SAFETENSORS)).hexdigest())"
    )
    ran = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
        for _ in range(2)
    ]
    assert ran[0].stdout == ran[1].stdout != b""


def test_weights_are_no_arrays_and_yet_must_be_finite() -> None:
    assert Weights("net", {"a": torch.ones(3)}).arrays() == {}
    assert Weights("net", {"a": torch.ones(3)}).is_finite()
    assert not Weights("net", {"a": torch.ones(3), "b": torch.tensor([torch.nan])}).is_finite()
    with pytest.raises(NotAcceptable):
        Weights("net", {"a": torch.ones(3)}).encode("image/png")


def test_every_form_of_every_kind_is_one_that_callers_may_ask_for(
    picture: Image, film: Animation, heatmap: Heatmap
) -> None:
    kinds: list[Artifact] = [
        Picture("p", picture), heatmap, Table("t", ROWS), film, Weights("w", {}),
        Grid("g", greys(0.5), 1),
    ]  # fmt: skip
    assert {form for artifact in kinds for form in artifact.media_types} <= set(FORMS)
    assert len({artifact.kind for artifact in kinds}) == len(kinds)
