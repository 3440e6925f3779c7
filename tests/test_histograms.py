"""A painting takes the histogram of a photograph, quickly and to the level."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from skimage.exposure import match_histograms

from lantern.image import Image
from lantern.palette import recoloured
from tests.paintings import chance, network


def test_histograms_are_matched_to_the_level_that_values_would_be(photo: Image) -> None:
    painting = network()(photo.resize(96, 144).pixels[None])[0]
    for pixels in (painting, painting**3, photo.pixels.flip(0), torch.full((3, 20, 20), 0.3)):
        made = recoloured(Image(pixels), photo).to_uint8().astype(int)
        exact = match_histograms(pixels.numpy(), photo.pixels.numpy(), channel_axis=0)
        wanted = Image(torch.from_numpy(exact)).to_uint8().astype(int)
        assert abs(made - wanted).max() <= 1
        assert (made != wanted).mean() < 0.01


def test_histograms_are_matched_several_times_as_fast() -> None:
    one, other = (Image(torch.rand(3, 1024, 1024, generator=chance(seed))) for seed in (1, 2))

    def seconds(action: Callable[[], object]) -> float:
        started = time.process_time()
        action()
        return time.process_time() - started

    ours = min(seconds(lambda: recoloured(one, other)) for _ in range(3))
    theirs = seconds(
        lambda: match_histograms(one.pixels.numpy(), other.pixels.numpy(), channel_axis=0)
    )
    assert theirs > 3 * ours
