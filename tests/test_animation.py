"""Animations come in frame by frame and go out so, painted without flicker."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import torch

from lantern import animation
from lantern.animation import Timing, encode_frames, frames_of, recode_frames, timing_of
from lantern.artifact import Animation, Picture, Result
from lantern.call import check
from lantern.checkpoint import Checkpoints
from lantern.errors import BadImage
from lantern.image import Image, of_picture
from lantern.progress import Cancelled, Step
from lantern.registry import find
from lantern.run import run
from lantern.styles import painting
from lantern.styles.library import StyleLibrary
from lantern.styles.painting import PaintingParams, smoothed, stillness
from lantern.vision_model import VisionModel
from tests.films import film
from tests.paintings import in_float32, network

KINDS = ["GIF", "WEBP", "PNG"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_comes_in_with_its_time(kind: str) -> None:
    image = Image.decode(film(kind, times=[80, 120, 200, 40]))
    assert Image.probe(film(kind)).frames == 4
    assert timing_of(image) == Timing((80, 120, 200, 40))
    found = list(frames_of(image, 64))
    assert len(found) == 4
    for number, frame in enumerate(found):
        assert frame.alpha is None
        red = frame.pixels[0] - frame.pixels[2]
        columns = (red.mean(0) > 0.1).nonzero()
        assert abs(int(columns.min()) - (4 + 8 * number)) <= 2
    assert torch.equal(found[0].pixels, image.pixels)
    assert {frame.pixels.shape for frame in frames_of(image, 32)} == {(3, 24, 32)}


def test_frames_are_decoded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def watched(picture: PIL.Image.Image) -> Image:
        decoded.append(picture.tell())
        return of_picture(picture)

    monkeypatch.setattr(animation, "of_picture", watched)
    frames = frames_of(Image.decode(film()), 32)
    assert decoded == []
    for number in range(4):
        next(frames)
        assert decoded == list(range(number + 1))


def test_frames_that_claim_no_time_are_shown_as_browsers_do() -> None:
    assert timing_of(Image.decode(film("GIF", times=10))).times_ms == (100,) * 4


def test_fractions_of_a_millisecond_do_not_add_up() -> None:
    times = timing_of(Image.decode(film("PNG", count=60, times=1000 / 60))).times_ms
    assert sum(times) == 1000
    assert set(times) == {16, 17}


@pytest.mark.parametrize(
    ("kind", "loop", "plays"),
    [
        ("GIF", None, 1), ("GIF", 0, 0), ("GIF", 2, 3), ("WEBP", 0, 0), ("WEBP", 1, 1),
        ("WEBP", 3, 3), ("PNG", 0, 0), ("PNG", 1, 1), ("GIF", 65535, 65535),
    ],
)  # fmt: skip
def test_it_is_shown_as_often_as_it_was(
    kind: str, loop: int | None, plays: int, styles: StyleLibrary
) -> None:
    image = Image.decode(film(kind, count=2, loop=loop))
    assert timing_of(image).plays == plays
    made = run("fast-style", {"image": image}, {"size": 64}, styles=styles).principal
    webp, gif = made.encode("image/webp"), made.encode("image/gif")
    for data in (webp, gif, recode_frames(webp, "image/gif")):
        assert timing_of(Image.decode(data)).plays == plays


@pytest.mark.parametrize("ms", [16, 17, 20, 25, 33, 42, 45])
def test_a_gif_is_shown_at_the_pace_it_has_as_a_webp(ms: int, photo: Image) -> None:
    # every frame differs from the one before
    pixels = photo.fit(48).pixels
    frames = [Image(pixels.roll(number, 2)) for number in range(60)]
    data = encode_frames(frames, "image/gif", Timing((ms,) * 60))
    times = timing_of(Image.decode(data)).times_ms
    assert min(times) >= 20
    assert abs(sum(times) - 60 * ms) <= 5
    assert len(times) >= (32 if ms < 20 else 60)
    ends = np.cumsum(times)
    assert all(np.abs(ends - step * ms).min() <= 20 for step in range(1, 61))


def test_a_gif_ends_with_the_last_frame(photo: Image) -> None:
    frames = [Image(photo.pixels.roll(40 * number, 2)) for number in range(3)]
    image = Image.decode(encode_frames(frames, "image/gif", Timing((50, 50, 11), plays=1)))
    assert timing_of(image) == Timing((50, 60), plays=1)
    *_, last = frames_of(image, 4096)
    assert (last.pixels - frames[2].pixels).abs().mean() < 0.03


def test_a_still_picture_is_no_animation(photo: Image) -> None:
    for kind in ("image/png", "image/jpeg", "image/webp"):
        data = photo.encode(kind)
        assert Image.decode(data).film is None
        assert Image.probe(data).frames == 1
        assert not check(find("fast-style"), {"image": data}, thoroughly=False)
    assert check(find("fast-style"), {"image": film()}, thoroughly=False)
    assert not check(find("classify"), {"image": film()}, thoroughly=False)


def test_frames_are_counted_without_going_through_all() -> None:
    data = film("GIF", count=2)
    start = data.index(b"\x2c")
    speck = b"\x2c" + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    many = data[:start] + speck * 500_000 + b";"
    assert Image.probe(many).frames == 1000
    with pytest.raises(BadImage, match="shorten or shrink it"):
        check(find("fast-style"), {"image": many}, thoroughly=False)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_as_many_frames_are_counted_as_there_are(count: int) -> None:
    data = film("GIF", count=count, size=(200, 150))
    with PIL.Image.open(io.BytesIO(data)) as theirs:
        assert Image.probe(data).frames == theirs.n_frames == count  # type: ignore[attr-defined]


def test_a_still_gif_is_a_picture(styles: StyleLibrary) -> None:
    image = Image.decode(film("GIF", count=1))
    assert image.film is None
    assert isinstance(run("fast-style", {"image": image}, styles=styles).principal, Picture)


@pytest.mark.parametrize(("most", "pixels"), [(3, 2**26), (200, 3 * 64 * 48)])
def test_one_too_long_is_refused(most: int, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animation, "MOST_FRAMES", most)
    monkeypatch.setattr(animation, "MOST_PIXELS", pixels)
    with pytest.raises(BadImage, match="shorten or shrink it"):
        timing_of(Image.decode(film()))
    with pytest.raises(BadImage, match="shorten or shrink it") as caught:
        check(find("fast-style"), {"image": film()}, thoroughly=False)
    assert caught.value.pointer == "/inputs/image"


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_cut_short_is_refused(kind: str, styles: StyleLibrary) -> None:
    data = film(kind, size=(200, 150))

    def read(end: int) -> None:
        image = Image.decode(data[:end])
        if image.film is not None:
            timing_of(image)

    refused = 0
    for end in range(len(data) // 2, len(data) - 40, 37):
        try:
            read(end)
        except BadImage:
            refused += 1
    assert refused > 0


def test_techniques_that_take_one_picture_say_what_they_left_out(
    styles: StyleLibrary, model: VisionModel
) -> None:
    image = Image.decode(film("GIF"))
    told = run("classify", {"image": image}, model=model).facts["warnings"]
    assert told == ["a picture is animated; only its first frame is used"]
    painted = run("fast-style", {"image": image}, {"size": 64}, styles=styles)
    assert "warnings" not in painted.facts


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_is_painted_as_one(kind: str, styles: StyleLibrary) -> None:
    image = Image.decode(film(kind, times=[80, 120, 200, 40]))
    made = run("fast-style", {"image": image}, {"size": 64}, styles=styles).principal
    assert isinstance(made, Animation)
    assert made.media_types[0] == "image/webp"
    again = Image.decode(made.encode("image/webp"))
    assert timing_of(again).times_ms == (80, 120, 200, 40)
    first, *_, last = frames_of(again, 64)
    assert first.pixels.shape == image.pixels.shape
    assert (first.pixels - last.pixels).abs().max() > 0.3


# --- Transparency ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "opacity"), [("GIF", 254), ("WEBP", 254), ("WEBP", 100)])
@pytest.mark.parametrize("form", ["image/webp", "image/gif", "a GIF of the WebP"])
def test_what_was_transparent_stays_so(
    kind: str, opacity: int, form: str, styles: StyleLibrary
) -> None:
    image = Image.decode(film(kind, opacity=opacity))
    made = run("fast-style", {"image": image}, {"size": 64}, styles=styles).principal
    if form == "a GIF of the WebP":
        data = recode_frames(made.encode("image/webp"), "image/gif")
    else:
        data = made.encode(form)
    found = list(frames_of(Image.decode(data), 64))
    assert len(found) == 4
    for number, frame in enumerate(found):
        assert frame.alpha is not None
        there = torch.zeros(48, 64)
        there[8:24, 4 + 8 * number : 20 + 8 * number] = 1
        # a GIF has no half tones
        expected = 1.0 if form != "image/webp" or kind == "GIF" else opacity / 255
        assert torch.allclose(frame.alpha, there * expected, atol=0.02)


def test_white_that_comes_to_cover_something_is_no_standstill(photo: Image) -> None:
    """Laid over white it looks as if nothing had moved."""
    frames = []
    for number in range(3):
        alpha = torch.zeros(photo.height, photo.width)
        alpha[:, 20 * number : 20 * number + 20] = 1
        frames.append(Image(torch.ones_like(photo.pixels), alpha=alpha))
    plain, smooth = (painted(frames, smoothing) for smoothing in (0.0, 0.9))
    for number, frame in enumerate(frames):
        assert frame.alpha is not None
        inside = frame.alpha.clone()
        inside[:, : 20 * number + 5], inside[:, 20 * number + 15 :] = 0, 0
        assert (plain - smooth)[number][:, inside > 0].abs().max() < 0.01


# --- Flicker -----------------------------------------------------------------------------------


def noisy(count: int, photo: Image, move: int = 0) -> list[Image]:
    chance = torch.Generator().manual_seed(0)
    frames = []
    for number in range(count):
        pixels = photo.pixels.roll(move * number, 2)
        noise = 0.02 * torch.randn(pixels.shape, generator=chance)
        frames.append(Image((pixels + noise).clamp(0, 1)))
    return frames


def painted(frames: list[Image], smoothing: float) -> torch.Tensor:
    ours = network()
    painter = painting.Painter(ours, in_float32(ours), lambda: in_float32(ours, "measured"))
    made = smoothed(painter, frames, PaintingParams(size=128, smoothing=smoothing), None)
    return torch.stack([image.pixels for image in made])


def flicker(frames: torch.Tensor) -> float:
    return float((frames[3:] - frames[2:-1]).abs().mean())


def test_where_nothing_moves_nothing_flickers(photo: Image) -> None:
    frames = noisy(8, photo)
    assert flicker(painted(frames, 0.8)) < 0.5 * flicker(painted(frames, 0.0))


def test_what_moves_leaves_no_trail(photo: Image) -> None:
    frames = noisy(6, photo, move=8)
    plain, smooth = painted(frames, 0.0), painted(frames, 0.8)
    edges = (photo.pixels.roll(8, 2) - photo.pixels).abs().mean(0) > 0.15
    assert edges.float().mean() > 0.05
    away = (smooth - plain).abs().mean(1)[-1]
    assert away[edges.roll(8 * 4, 1)].mean() < 0.1 * plain.std()


def test_stillness_tells_noise_from_movement(photo: Image) -> None:
    still, moved = noisy(2, photo), noisy(2, photo, move=12)
    assert stillness(*(frame.pixels for frame in still)).mean() > 0.7
    edges = (photo.pixels.roll(12, 2) - photo.pixels).abs().mean(0) > 0.2
    assert stillness(*(frame.pixels for frame in moved))[0][edges].mean() < 0.2


# --- Going on


@pytest.mark.parametrize("technique", ["fast-style", "arbitrary-style"])
@pytest.mark.parametrize("broken_off", [1, 3, 4])
def test_a_film_that_is_broken_off_goes_on_to_the_same_bytes(
    technique: str, broken_off: int, styles: StyleLibrary, photo: Image
) -> None:
    images = {"image": Image.decode(film())}
    if technique == "arbitrary-style":
        images["style"] = photo
    saved: list[bytes] = []
    told: list[tuple[int, int]] = []

    def paint(kept: bytes | None, stop_at: int) -> Result:
        def save(state: bytes) -> None:
            saved.append(state)

        def watch(step: Step) -> None:
            told.append((step.done, step.total))
            assert step.preview().pixels.shape == (3, 48, 64)
            if step.done > stop_at:
                raise Cancelled

        checkpoints = Checkpoints(save, kept, every_s=0, most_cost=1e9)
        return run(
            technique, images, {"size": 64}, styles=styles, progress=watch, checkpoints=checkpoints
        )

    whole = paint(None, 4)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    if broken_off < 4:
        saved.clear()
        with pytest.raises(Cancelled):
            paint(None, broken_off)
    told.clear()
    resumed = paint(saved[broken_off - 1], 4)
    assert told == [(number, 4) for number in range(broken_off + 1, 5)]
    assert resumed.principal.encode("image/webp") == whole.principal.encode("image/webp")
    (one,), (other,) = (result.principal.arrays().values() for result in (resumed, whole))
    assert np.array_equal(one, other)
