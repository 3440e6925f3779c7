"""A painting's style is learnt: a hand of the shared network, or a network of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lantern.artifact import SAFETENSORS, Result, Weights
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter, MissingInput, UnknownName
from lantern.image import Image
from lantern.optimize.objectives import gram, style_loss
from lantern.progress import Cancelled, Progress, Step, Suspended, silent
from lantern.run import run
from lantern.styles import library as libraries
from lantern.styles.files import DamagedStyle
from lantern.styles.library import StyleLibrary
from lantern.styles.loss import PaintingLossParams
from lantern.styles.own import OwnStyle
from lantern.styles.train import Lesson, Photographs, learn
from lantern.styles.train_shared import TrainSharedParams, train_shared
from lantern.styles.trained import read_hand, read_network
from lantern.vision_model import VisionModel
from tests.paintings import chance, fill, network, shared

SHORT = {"steps": 3, "batch": 1, "crop": 64, "style_size": 64}
WAYS = ("quick", "thorough")
Train = Callable[..., Result]


@pytest.fixture
def library(tmp_path: Path, picture: Image, model: VisionModel) -> StyleLibrary:
    return fill(tmp_path / "styles", model, picture, tmp_path / "own")


@pytest.fixture
def painting(photo: Image) -> Image:
    return Image(photo.pixels.flip(0).roll(30, 2))


@pytest.fixture
def train(library: StyleLibrary, small_model: VisionModel, painting: Image) -> Train:
    def train(
        progress: Progress = silent,
        checkpoints: Checkpoints | None = None,
        seed: int = 0,
        **params: Any,
    ) -> Result:
        return run(
            "train-style", {"style": painting}, SHORT | params, model=small_model, styles=library,
            seed=seed, progress=progress, checkpoints=checkpoints,
        )  # fmt: skip

    return train


def file_of(result: Result) -> bytes:
    (weights,) = [part for part in result.artifacts if isinstance(part, Weights)]
    return weights.encode(SAFETENSORS)


def keep(library: StyleLibrary, result: Result, digit: str, *, blends: bool) -> str:
    name = "sty_" + digit * 32
    style = OwnStyle(name, "me", 1.0, "Mine", blends, {})
    library.own.keep(style, file_of(result), b"a picture")
    return name


# --- Learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_painting_is_what_is_learnt(
    way: str, train: Train, library: StyleLibrary, small_model: VisionModel, painting: Image,
    photo: Image,
) -> None:  # fmt: skip
    layers = small_model.style_layers
    pixels = photo.resize(64, 64).pixels[None]

    def distance(result: Result) -> float:
        name = keep(library, result, str(result.facts["steps"] % 10), blends=way == "quick")
        painted = library.painter({name: 1.0}).paint(Image(pixels[0])).pixels[None]
        with small_model.capture(layers) as features, torch.no_grad():
            seen = features(painting.cover(64).pixels[None])
            wanted = {layer: gram(seen[layer]) for layer in layers}
            return float(style_loss(features(painted), wanted))

    first, last = (
        train(
            way=way, steps=steps, content_weight=0, learning_rate=0.05 if way == "quick" else 5e-3
        )
        for steps in (1, 28)
    )
    assert distance(last) < 0.75 * distance(first)


def test_the_quick_way_learns_a_hand_and_leaves_the_network(
    train: Train, library: StyleLibrary, tmp_path: Path
) -> None:
    before = library.shared().network.state_dict()
    result = train()
    assert all(torch.equal(before[n], t) for n, t in library.shared().network.state_dict().items())
    path = tmp_path / "style"
    path.write_bytes(file_of(result))
    hand = read_hand(path, library.shared().trunk)
    assert hand.shape == (library.shared().network.hand_size,)
    assert len(file_of(result)) < 20_000
    assert result.facts["way"] == "quick"
    with pytest.raises(DamagedStyle):
        read_network(path)


def test_the_thorough_way_learns_a_network(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "style"
    path.write_bytes(file_of(train(way="thorough")))
    assert read_network(path).architecture == network().architecture
    with pytest.raises(DamagedStyle):
        read_hand(path, "whichever")


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same_file(way: str, train: Train) -> None:
    before = torch.get_rng_state()
    first, second, other = (file_of(train(seed=seed, way=way)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second
    assert first != other


@pytest.mark.parametrize("way", WAYS)
def test_learning_that_is_resumed_ends_in_the_same_file(way: str, train: Train) -> None:
    saved: list[bytes] = []
    stop = iter([False, True])
    with pytest.raises(Suspended):
        train(checkpoints=Checkpoints(saved.append, suspend=lambda: next(stop)), way=way)
    resumed, whole = train(checkpoints=Checkpoints(saved=saved[-1]), way=way), train(way=way)
    assert file_of(resumed) == file_of(whole)
    assert resumed.facts["losses"] == whole.facts["losses"]


def test_learning_can_be_watched_and_stopped(train: Train, small_model: VisionModel) -> None:
    previews: list[Image] = []

    def stop(step: Step) -> None:
        previews.append(step.preview())
        if step.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(stop, steps=50)
    assert len(previews) == 2
    assert min(previews[0].height, previews[0].width) == 256
    assert not torch.equal(previews[0].pixels, previews[1].pixels)
    assert not any(m._forward_hooks for m in small_model.network.modules())


def test_the_photograph_that_is_shown_is_the_callers(
    library: StyleLibrary, small_model: VisionModel, painting: Image, photo: Image
) -> None:
    tall = photo.crop(0, 0, 80, 40)
    images = {"style": painting, "image": tall}
    result = run("train-style", images, SHORT, model=small_model, styles=library)
    shown = result.principal.arrays()["preview"]
    assert shown.shape[1] == pytest.approx(2 * shown.shape[2], abs=8)


def test_losses_fall(small_model: VisionModel, photo: Image, painting: Image) -> None:
    ours = network().train().requires_grad_(True)
    lesson = Lesson(
        painting.cover(64), Photographs([photo.to_uint8()], 64), small_model, PaintingLossParams(),
        25, 2, 5e-3,
    )  # fmt: skip
    learnt = learn(
        lesson, ours, ours.parameters(), progress=silent, preview=lambda: photo,
        generator=chance(),
    )  # fmt: skip
    losses = learnt.trace.losses
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    assert learnt.facts()["losses"]["style"] == pytest.approx(learnt.style, abs=1e-4)


def test_crops_stay_inside_and_differ(photo: Image) -> None:
    photos = Photographs([photo.to_uint8(), np.zeros((20, 30, 3), np.uint8)], crop=16)
    batch = photos.batch(40, chance())
    assert batch.shape == (40, 3, 16, 16)
    black = [float(sample.max()) == 0 for sample in batch]
    assert 8 < sum(black) < 32
    assert torch.equal(batch, photos.batch(40, chance()))
    with pytest.raises(MissingInput, match="no training photographs"):
        Photographs([], crop=16)


# --- Many at once ------------------------------------------------------------------------------


def test_one_network_learns_the_hands_of_several_paintings(
    small_model: VisionModel, model: VisionModel, photo: Image
) -> None:
    paintings = {"red": tinted(photo, 0), "blue": tinted(photo, 2)}
    photos = Photographs([photo.to_uint8()], 64)
    others = Photographs([p.to_uint8() for p in paintings.values()], 64)
    params = TrainSharedParams(
        steps=40, batch=4, crop=64, style_size=64, width=4, blocks=1, learning_rate=1e-2,
        content_weight=0.02,
    )  # fmt: skip
    made, trace = train_shared(
        paintings, others, photos, photo, small_model, model, params, progress=silent,
        generator=chance(),
    )  # fmt: skip
    assert sum(trace.losses[-10:]) < 0.8 * sum(trace.losses[:10])
    pixels = photo.resize(64, 64).pixels[None]
    red, blue = (made.network(pixels, made.hands[name][None])[0] for name in ("red", "blue"))
    assert (red[0].mean() - red[2].mean()) > (blue[0].mean() - blue[2].mean()) + 0.05


def tinted(photo: Image, colour: int) -> Image:
    pixels = photo.pixels * 0.2
    pixels[colour] = photo.pixels[colour] * 0.5 + 0.5
    return Image(pixels)


# --- Painting in what was learnt ---------------------------------------------------------------


def test_a_hand_of_ones_own_paints_and_mixes(
    train: Train, library: StyleLibrary, photo: Image
) -> None:
    name = keep(library, train(), "1", blends=True)
    assert library.style(name).kind == "many-style"
    small = photo.fit(64)

    def of(style: str) -> torch.Tensor:
        result = run("fast-style", {"image": small}, {"style": style}, styles=library)
        return torch.from_numpy(result.principal.arrays()["picture"])

    mine, waves, near = of(name), of("waves"), of(f"{name}:99,waves:1")
    assert (mine - waves).abs().mean() > 0.02
    assert (near - mine).abs().mean() < 0.2 * (mine - waves).abs().mean()


def test_a_network_of_ones_own_is_not_mixed(
    train: Train, library: StyleLibrary, photo: Image
) -> None:
    name = keep(library, train(way="thorough"), "2", blends=False)
    assert library.style(name).kind == "per-style"
    assert library.painter({name: 1.0}).hand is None
    with pytest.raises(InvalidParameter, match=r"cannot be mixed.*stars, waves"):
        library.painter({name: 1.0, "waves": 1.0})


def test_a_hand_of_another_network_is_refused(
    train: Train, library: StyleLibrary, tmp_path: Path
) -> None:
    name = keep(library, train(), "3", blends=True)
    library.share(shared(library.shared().predictor.mean.numel(), seed=4), [])
    with pytest.raises(DamagedStyle, match="replaced since; train it again"):
        library.painter({name: 1.0})


def test_a_style_that_is_forgotten_is_unknown(train: Train, library: StyleLibrary) -> None:
    name = keep(library, train(), "4", blends=True)
    assert [style.id for style in library.own.every("me")] == [name]
    assert library.own.every("you") == []
    assert library.own.forget(name)
    assert not library.own.forget(name)
    with pytest.raises(UnknownName):
        library.painter({name: 1.0})


def test_so_many_networks_are_kept_in_memory(
    train: Train, library: StyleLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "MOST_KEPT", 2)
    result = train(way="thorough")
    names = [keep(library, result, digit, blends=False) for digit in "567"]
    painters = [library.painter({name: 1.0}) for name in (*names, names[1], names[0])]
    assert painters[3] is painters[1]
    assert painters[4] is not painters[0]
    assert len(library._painters) == 2


def test_a_hand_joins_those_of_the_store(
    train: Train, library: StyleLibrary, picture: Image, tmp_path: Path
) -> None:
    path = tmp_path / "style"
    path.write_bytes(file_of(train()))
    hand = read_hand(path, library.shared().trunk)
    trunk = library.shared().trunk
    library.add_hand("mine", hand, picture, title="Mine", facts={})
    assert list(library.shared().hands) == ["stars", "waves", "mine"]
    assert library.shared().trunk == trunk
    assert library.painter({"mine": 0.5, "stars": 0.5}).hand is not None
    again = StyleLibrary(library.folder)
    assert torch.equal(again.shared().hands["mine"], hand)
