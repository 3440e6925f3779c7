"""One network paints in many hands, in mixtures of them and in those it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.run import run
from lantern.styles import painting
from lantern.styles.engine import Engine, Hands, openvino_engine
from lantern.styles.files import DamagedStyle
from lantern.styles.library import SHARED, StyleLibrary
from lantern.styles.mix import read_mix
from lantern.styles.painting import Painter
from lantern.styles.prediction import signature
from lantern.styles.shared import read_shared, write_shared
from lantern.vision_model import VisionModel
from tests.paintings import chance, fill, hand, in_float32, network, shared

# --- Hands -------------------------------------------------------------------------------------


def test_the_own_hand_given_changes_nothing() -> None:
    ours, pixels = network(), torch.rand(2, 3, 32, 40, generator=chance())
    given = ours(pixels, ours.hand().expand(2, -1))
    assert torch.allclose(given, ours(pixels), atol=1e-6)


def test_each_picture_of_a_batch_has_its_own() -> None:
    ours, pixels = network(), torch.rand(2, 3, 32, 40, generator=chance())
    hands = [hand(ours, 1), hand(ours, 2)]
    together = ours(pixels, torch.stack(hands))
    for place, one in enumerate(hands):
        alone = network()
        alone.take(one)
        assert torch.equal(alone.hand(), one)
        assert torch.allclose(alone(pixels[place : place + 1])[0], together[place], atol=1e-5)
    assert not torch.allclose(together[0], ours(pixels)[0], atol=1e-2)
    # and nothing of it stays behind
    assert torch.equal(ours(pixels), network()(pixels))


def test_a_measured_hand_does_what_normalising_does() -> None:
    ours, pixels = network(), torch.rand(1, 3, 48, 64, generator=chance())
    for given in (None, hand(ours, 1)[None]):
        measured = ours.measure(pixels, given)
        assert measured.shape == (1, ours.hand_size)
        assert torch.allclose(ours(pixels, measured, measured=True), ours(pixels, given), atol=1e-5)


def test_parts_are_measured_as_one_picture() -> None:
    ours, pixels = network(), torch.rand(1, 3, 64, 64, generator=chance())
    twice = ours.measure(pixels.repeat(2, 1, 1, 1))
    assert torch.allclose(twice, ours.measure(pixels), atol=1e-5)


@pytest.mark.parametrize("hands", ["given", "measured"])
def test_openvino_takes_hands(hands: Hands) -> None:
    ours, pixels = network(), torch.rand(1, 3, 32, 48, generator=chance())
    engine = openvino_engine(ours, hands)
    assert engine is not None
    for seed in (1, 2):
        given = hand(ours, seed)[None]
        given = ours.measure(pixels, given) if hands == "measured" else given
        wanted = in_float32(ours, hands).forward(pixels, given)
        assert (engine.forward(pixels, given) - wanted).abs().max() < 0.02


# --- Large pictures ----------------------------------------------------------------------------


def test_a_picture_in_tiles_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, photo: Image
) -> None:
    ours = network()
    engine = in_float32(ours)
    image = photo.resize(300, 420)
    painter = Painter(ours, engine, lambda: in_float32(ours, "measured"))
    whole = painter.paint(image).pixels
    monkeypatch.setattr(painting, "WHOLE", 0)
    monkeypatch.setattr(painting, "SIDE", 256)
    tiled = painter.paint(image).pixels
    # what is measured of parts is nearly that of the whole; and with it there is no seam at all
    assert (tiled - whole).abs().mean() < 0.03
    hand = ours.measure(painting.parts(image.pixels[None]))
    assert torch.allclose(tiled, ours(image.pixels[None], hand, measured=True)[0], atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_large_picture_is_measured_where_the_network_is(
    own: bool, monkeypatch: pytest.MonkeyPatch, picture: Image
) -> None:
    monkeypatch.setattr(painting, "WHOLE", 0)
    ours = network()
    given, seen = None if own else hand(ours, 1)[None], []

    def spy(pixels: torch.Tensor, hand: torch.Tensor | None) -> torch.Tensor:
        assert hand is not None
        seen.append((pixels.device.type, hand.device.type, tuple(hand.shape)))
        return pixels

    tiles = Engine("spy", spy)
    painter = Painter(ours.to("meta"), tiles, lambda: tiles, given)
    assert torch.equal(painter.paint(picture).pixels, picture.pixels)
    assert seen == [("cpu", "meta", (1, ours.hand_size))]


# --- Mixtures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("waves", {"waves": 1.0}),
        ("waves:3", {"waves": 1.0}),
        ("waves:0.6,stars:0.4", {"waves": 0.6, "stars": 0.4}),
        (" waves , stars : 3 ", {"waves": 0.25, "stars": 0.75}),
    ],
)
def test_a_mixture_is_read(text: str, mix: dict[str, float]) -> None:
    assert read_mix(text) == pytest.approx(mix)


@pytest.mark.parametrize(
    "text",
    ["", ",", "waves,", ":1", "waves:", "waves:x", "waves:0", "waves:-1", "waves:nan", "waves:inf",
     "waves,waves", "waves:2000", ",".join(f"s{n}" for n in range(9))],
)  # fmt: skip
def test_what_is_no_mixture_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        read_mix(text)
    assert caught.value.pointer == "/params/style"


# --- The library -------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path, picture: Image, model: VisionModel) -> StyleLibrary:
    return fill(tmp_path / "styles", model, picture)


def test_a_shared_network_comes_back_to_half_precision(tmp_path: Path) -> None:
    ours = shared()
    (tmp_path / SHARED).write_bytes(b"the one before")
    with (tmp_path / SHARED).open("rb") as reader:
        write_shared(ours, tmp_path / SHARED)
        assert reader.read() == b"the one before", "a reader never sees half a file"
    assert [path.name for path in tmp_path.iterdir()] == [SHARED]
    again = read_shared(tmp_path / SHARED)
    assert list(again.hands) == ["stars", "waves"]
    pixels, given = torch.rand(1, 3, 32, 32, generator=chance()), torch.randn(1, 12)
    for one, other in [
        (ours.hands["stars"], again.hands["stars"]),
        (ours.predicted(given), again.predicted(given)),
        (ours.network(pixels), again.network(pixels)),
    ]:
        assert torch.allclose(one, other, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_damaged_shared_network_is_told(library: StyleLibrary, damage: str) -> None:
    path = library.folder / SHARED
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-50] if damage == "cut" else b"<html>")
    with pytest.raises(DamagedStyle, match=r"shared\.safetensors"):
        library.painter({"stars": 1.0})
    path.write_bytes(data)
    assert library.painter({"stars": 1.0}).hand is not None


def test_what_has_its_own_network_is_not_mixed(library: StyleLibrary) -> None:
    assert library.painter({"dots": 1.0}).hand is None
    with pytest.raises(InvalidParameter, match=r"dots has a network of its own.*stars, waves"):
        library.painter({"dots": 0.5, "stars": 0.5})
    with pytest.raises(UnknownName, match="did you mean stars"):
        library.painter({"star": 0.5, "waves": 0.5})


def test_a_style_of_both_kinds_can_be_mixed_and_has_its_own(
    library: StyleLibrary, picture: Image
) -> None:
    library.add("stars", network(4), picture, title="Stars", facts={})
    assert library.style("stars").kind == "per-style"
    assert library.painter({"stars": 1.0}).hand is None
    assert library.painter({"stars": 0.5, "waves": 0.5}).hand is not None


# --- The techniques ----------------------------------------------------------------------------


def paint(library: StyleLibrary, name: str, images: dict[str, Any], **params: Any) -> torch.Tensor:
    artifact = run(name, images, params, styles=library).principal
    return torch.from_numpy(artifact.arrays()["picture"])


def test_a_mixture_lies_between_its_styles(library: StyleLibrary, picture: Image) -> None:
    def of(style: str) -> torch.Tensor:
        return paint(library, "fast-style", {"image": picture}, style=style)

    stars, waves, near = of("stars"), of("waves"), of("stars:99,waves:1")
    assert (stars - waves).abs().mean() > 0.05
    assert (near - stars).abs().mean() < 0.1 * (stars - waves).abs().mean()


def test_a_mask_says_where_to_paint(library: StyleLibrary, picture: Image) -> None:
    left = torch.zeros(3, 20, 20)
    left[:, :, :10] = 1
    whole, part = (
        paint(library, "fast-style", {"image": picture} | more, style="waves")
        for more in ({}, {"mask": Image(left)})
    )
    third = picture.width // 3
    assert torch.allclose(part[:, :, :third], whole[:, :, :third], atol=1e-5)
    assert torch.allclose(part[:, :, -third:], picture.pixels[:, :, -third:], atol=1e-5)


def test_the_photographs_colours_are_kept(library: StyleLibrary, photo: Image) -> None:
    small = photo.fit(96)
    for color in ("luminance", "histogram"):
        made = paint(library, "fast-style", {"image": small}, style="waves", color=color)
        plain = paint(library, "fast-style", {"image": small}, style="waves")
        wanted = small.pixels.mean((1, 2))
        assert (made.mean((1, 2)) - wanted).abs().sum() < (plain.mean((1, 2)) - wanted).abs().sum()
        assert (made - small.pixels).abs().mean() > 0.01


def test_strokes_of_another_size_are_painted_at_another_size(
    library: StyleLibrary, picture: Image
) -> None:
    seen: list[tuple[int, ...]] = []
    painter = library.painter({"waves": 1.0})

    def spy(pixels: torch.Tensor, hand: torch.Tensor | None) -> torch.Tensor:
        seen.append(tuple(pixels.shape[2:]))
        return painter.whole.forward(pixels, hand)

    spied = Painter(painter.network, Engine("spy", spy), painter.tiles, painter.hand)
    for scale in (0.5, 2.0):
        params = painting.PaintingParams(size=64, style_scale=scale)
        out = painting.painted(spied, picture.resize(64, 48), params, None)
        assert (out.height, out.width) == (64, 48)
    assert seen == [(128, 96), (32, 24)]


def test_strokes_too_fine_are_refused(library: StyleLibrary) -> None:
    large = {"image": Image(torch.zeros(3, 16, 2052))}
    with pytest.raises(InvalidParameter, match=r"2052 px at 4104 px.*at most 4096") as caught:
        paint(library, "fast-style", large, style="waves", size=4096, style_scale=0.5)
    assert caught.value.pointer == "/params/style_scale"


def test_strokes_are_judged_by_the_picture_there_is(library: StyleLibrary, picture: Image) -> None:
    fine = paint(
        library, "fast-style", {"image": picture}, style="waves", size=4096, style_scale=0.5
    )
    assert fine.shape == picture.pixels.shape


def test_the_hand_is_the_paintings(library: StyleLibrary, photo: Image) -> None:
    one, other = (library.hand_of(p) for p in (photo, Image(1 - photo.pixels)))
    assert one.shape == (library.shared().network.hand_size,)
    assert torch.equal(one, library.hand_of(photo))
    assert (one - other).abs().mean() > 0.02
    painted = [library.painter_of(hand).paint(photo.fit(64)).pixels for hand in (one, other)]
    assert (painted[0] - painted[1]).abs().mean() > 0.01


def test_a_signature_says_nothing_of_where_things_are(model: VisionModel) -> None:
    tile = torch.rand(1, 3, 32, 32, generator=chance()).repeat(1, 1, 8, 8)
    one, other = signature(model, tile), signature(model, tile.roll((32, 64), (2, 3)))
    assert torch.allclose(one, other, rtol=0.05, atol=0.02)
    blank = signature(model, torch.full_like(tile, 0.5))
    assert (one - blank).abs().mean() > 10 * (one - other).abs().mean()
