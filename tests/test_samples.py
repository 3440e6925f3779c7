"""The sample pictures are there and are what their names say."""

from __future__ import annotations

import pytest

from lantern import samples
from lantern.image import Image


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_textures_are_grey_squares(name: str) -> None:
    assert set(samples.textures()) == {"brick", "grass", "gravel"}
    picture = Image.decode(samples.textures()[name].read_bytes())
    assert (picture.height, picture.width) == (512, 512)
    assert (picture.pixels[0] == picture.pixels[2]).all()


def test_textures_are_not_offered_as_photographs() -> None:
    assert "cat" in samples.photographs()
    assert not set(samples.textures()) & set(samples.photographs())
