"""Every piece of a result becomes the bytes it should."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch

from lantern.artifact import PLAIN, Heatmap, NotAcceptable, Picture, Rendering, Result, Table
from lantern.colour import colourise
from lantern.image import FORMATS, Image
from lantern.params import Params

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


def test_quality_reaches_the_encoder(photo: Image) -> None:
    sizes = [
        len(Picture("p", photo).encode("image/jpeg", Rendering(quality=q))) for q in (5, 50, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 3


def test_a_heat_map_alone_is_its_colours(heatmap: Heatmap, field: torch.Tensor) -> None:
    alone = Rendering(overlay=False, colormap="viridis")
    wanted = Image(colourise(field, "viridis")).to_uint8()
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
    with pytest.raises(NotAcceptable, match="map is a heatmap; ask for image/jpeg, image/png"):
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
