"""Dreams grow what a layer sees, stay pictures, and are the same in tiles and in company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern import samples
from lantern.artifact import Animation, Picture, Result
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.metrics import ssim
from lantern.optimize.octaves import zoomed
from lantern.progress import Step
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.alive import watched

ONE_STEP: dict[str, Any] = {"steps": 1, "octaves": 1}
SHORT: dict[str, Any] = {"steps": 3, "octaves": 2, "size": 72}


def dream(
    model: VisionModel, *photos: Image, guide: Image | None = None, seed: int = 0, **params: Any
) -> Result:
    images = {"image": photos} | ({} if guide is None else {"guide": guide})
    return run("deep-dream", images, params, model=model, seed=seed)


def pictures(result: Result) -> list[Image]:
    return [artifact.image for artifact in result.artifacts if isinstance(artifact, Picture)]


def answer(model: VisionModel, image: Image, layer: str) -> Tensor:
    with torch.no_grad(), model.capture([layer]) as features:
        return features(image.pixels[None])[layer][0]


def change(after: Image, before: Image) -> Tensor:
    return (after.pixels - before.pixels).flatten()


@pytest.fixture(scope="module")
def cat(photo: Image) -> Image:
    return photo.crop(10, 30, 64, 72)


@pytest.fixture(scope="module")
def coffee() -> Image:
    return Image.decode(samples.photographs()["coffee"].read_bytes()).fit(300)


@pytest.fixture(scope="module")
def plain(model: VisionModel, photo: Image) -> Result:
    """The dream of a cat, all by default."""
    return dream(model, photo)


# --- What a dream is ---------------------------------------------------------------------------


def test_the_objective_grows_at_every_octave_and_doubles(
    plain: Result, model: VisionModel, photo: Image
) -> None:
    octaves = plain.facts["octaves"]
    assert [(o["height"], o["width"]) for o in octaves] == [(61, 91), (85, 128)]
    assert all(octave["last"] > octave["first"] for octave in octaves)
    before, after = (
        answer(model, image, model.dream_layer).square().mean().item()
        for image in (photo, *pictures(plain))
    )
    assert after > 2 * before
    # the fact is the objective before the last step, and of a shifted picture
    assert octaves[-1]["last"] == pytest.approx(after, rel=0.15)


def test_a_dream_has_the_size_of_the_picture_and_still_resembles_it(
    plain: Result, photo: Image
) -> None:
    (made,) = pictures(plain)
    assert made.pixels.shape == photo.pixels.shape
    assert 0.2 < ssim(made, photo) < 0.95


def test_chosen_channels_grow_beyond_what_the_whole_layer_gives_them(
    model: VisionModel, cat: Image
) -> None:
    def strength(result: Result) -> float:
        return answer(model, pictures(result)[0], "_blocks.6")[[5, 11]].square().mean().item()

    chosen = dream(model, cat, layer="_blocks.6", channels=[5, 11], **SHORT)
    whole = dream(model, cat, layer="_blocks.6", **SHORT)
    assert strength(chosen) > 1.3 * strength(whole)


def test_class_scores_can_be_dreamt_of(model: VisionModel, cat: Image) -> None:
    result = dream(model, cat, layer="_fc", channels=[285], jitter=0, **SHORT)
    assert result.facts["octaves"][-1]["last"] > result.facts["octaves"][-1]["first"]


def test_an_octave_that_has_settled_ends_early(model: VisionModel, cat: Image) -> None:
    params = SHORT | {"steps": 8, "octave_scale": 1.2}
    full, early = dream(model, cat, **params), dream(model, cat, settle=0.5, **params)
    assert [octave["steps"] for octave in full.facts["octaves"]] == [8, 8]
    assert [octave["steps"] for octave in early.facts["octaves"]] == [6, 6]


# --- Guides ------------------------------------------------------------------------------------


def nearness(model: VisionModel, image: Image, guide: Image) -> float:
    """Return the mean cosine of each position with the guide's nearest, around the guide's mean."""
    vectors, own = (answer(model, i, model.dream_layer).flatten(1).T for i in (guide, image))
    mean = vectors.mean(0)
    cosines = F.normalize(own - mean, dim=1) @ F.normalize(vectors - mean, dim=1).T
    return cosines.max(1).values.mean().item()


def test_a_guided_dream_comes_nearer_to_its_guide_than_to_another(
    model: VisionModel, photo: Image, coffee: Image
) -> None:
    rocket = Image.decode(samples.photographs()["rocket"].read_bytes()).fit(224)
    guides = [coffee.fit(224), rocket]
    made = [
        pictures(dream(model, photo, guide=guide, steps=6, octaves=1, size=96))[0]
        for guide in guides
    ]
    for own, other in ((0, 1), (1, 0)):
        before = nearness(model, photo.fit(96), guides[own])
        assert nearness(model, made[own], guides[own]) > before + 0.1
        assert nearness(model, made[own], guides[own]) > nearness(model, made[other], guides[own])


# --- Tiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_guided", [False, True])
def test_a_step_in_tiles_is_that_of_the_whole(
    is_guided: bool, model: VisionModel, coffee: Image
) -> None:
    guide = coffee.crop(20, 30, 100, 100) if is_guided else None
    tiled, whole = (
        pictures(dream(model, coffee, guide=guide, tile_size=side, **ONE_STEP))[0]
        for side in (256, 512)
    )
    assert not torch.equal(tiled.pixels, whole.pixels)
    alike = F.cosine_similarity(change(tiled, coffee), change(whole, coffee), 0)
    assert alike > 0.98


def test_tiles_bound_what_is_kept_for_the_gradient(model: VisionModel) -> None:
    noise = Image(torch.rand(3, 320, 512, generator=torch.Generator().manual_seed(0)))
    most = []
    for side in (256, 512):
        with watched() as alive:
            dream(model, noise, tile_size=side, size=512, layer="_blocks.4", **ONE_STEP)
        most.append(alive.most)
    # a tile sees at most 256 by 256 px of 320 by 512
    assert most[0] < 0.55 * most[1]


# --- Several pictures --------------------------------------------------------------------------


def test_pictures_become_what_they_would_alone(model: VisionModel, coffee: Image) -> None:
    photos = [
        coffee.crop(0, 0, 64, 72),
        coffee.crop(60, 60, 64, 72),
        coffee.crop(0, 0, 80, 70),
    ]
    params = SHORT | {"frames": 2, "frame_steps": 1, "size": 80}
    together = dream(model, *photos, **params)
    names = ["picture", "picture-2", "picture-3", "zoom", "zoom-2", "zoom-3"]
    assert [artifact.name for artifact in together.artifacts] == names
    for place, photo in enumerate(photos):
        alone = dream(model, photo, **params)
        for own, shared in zip(alone.artifacts, together.artifacts[place::3], strict=True):
            assert own.encode("image/webp") == shared.encode("image/webp")
        facts = together.facts if place == 0 else together.facts["others"][place - 1]
        assert alone.facts["octaves"] == facts["octaves"]
        assert alone.facts["zoom"] == facts["zoom"]


def test_every_picture_keeps_its_transparency(model: VisionModel, cat: Image) -> None:
    alphas = [torch.full((64, 72), 0.25), None, torch.linspace(0, 1, 64 * 72).view(64, 72)]
    photos = [Image(cat.pixels, alpha=alpha) for alpha in alphas]
    for made, alpha in zip(pictures(dream(model, *photos, **ONE_STEP)), alphas, strict=True):
        assert (made.alpha is None) == (alpha is None)
        assert alpha is None or torch.equal(made.alpha, alpha)  # type: ignore[arg-type]


# --- The zoom ----------------------------------------------------------------------------------


def test_there_is_no_zoom_unless_asked_for(plain: Result) -> None:
    assert [artifact.name for artifact in plain.artifacts] == ["picture"]
    assert "zoom" not in plain.facts


def test_frames_fall_into_the_dream_and_dream_on(model: VisionModel, photo: Image) -> None:
    result = dream(model, photo, frames=5, zoom=1.2, frame_steps=2, frame_ms=50, steps=6, octaves=1)
    film = result.artifacts[1]
    assert isinstance(film, Animation)
    assert (film.frame_ms, len(film.frames)) == (50, 5)
    assert all(frame.pixels.shape == photo.pixels.shape for frame in film.frames)
    first = film.frames[0].pixels
    assert (first - pictures(result)[0].pixels).abs().max() <= 0.5 / 255 + 1e-6
    for before, frame in zip(film.frames, film.frames[1:], strict=False):
        closer = Image(zoomed(before.pixels[None], 1.2)[0])
        # it is the last one, enlarged, and more has been dreamt since
        assert ssim(frame, closer) > 0.5 > ssim(frame, before)
        assert (frame.pixels - closer.pixels).abs().mean() > 0.005
        seen = [answer(model, i, model.dream_layer).square().mean() for i in (closer, frame)]
        assert seen[1] > seen[0]
    assert result.facts["zoom"]["steps"] == 8


def test_progress_goes_through_octaves_and_frames(model: VisionModel, cat: Image) -> None:
    steps: list[tuple[int, int]] = []
    previews: list[Image] = []

    def watch(step: Step) -> None:
        steps.append((step.done, step.total))
        previews.append(step.preview())

    result = run(
        "deep-dream", {"image": cat}, SHORT | {"octave_scale": 1.1, "frames": 3, "frame_steps": 2},
        model=model, progress=watch,
    )  # fmt: skip
    assert steps == [(number, 10) for number in range(1, 11)]
    assert {preview.pixels.shape for preview in previews} == {cat.pixels.shape}
    film = result.artifacts[1]
    assert isinstance(film, Animation)
    assert torch.equal(previews[5].pixels, pictures(result)[0].pixels)
    for preview, frame in ((previews[7], film.frames[1]), (previews[9], film.frames[2])):
        assert (preview.pixels - frame.pixels).abs().max() <= 0.5 / 255 + 1e-6


# --- Bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "params", "pointer"),
    [
        (3, {"size": 2048}, "/params/size"),
        (1, {"size": 1024, "frames": 33}, "/params/frames"),
        (8, {"size": 512, "frames": 9}, "/params/frames"),
    ],
)
def test_more_than_the_memory_is_for_is_refused(
    count: int, params: dict[str, Any], pointer: str, model: VisionModel
) -> None:
    large = Image(torch.zeros(3, 1, 1).expand(3, 2048, 2048))
    with pytest.raises(InvalidParameter, match=r"at most \d+ are taken in one run: choose") as seen:
        dream(model, *[large] * count, **params)
    assert seen.value.pointer == pointer


def test_the_estimate_counts_both_passes_of_every_step(model: VisionModel, cat: Image) -> None:
    params = SHORT | {"octave_scale": 1.1, "frames": 3, "frame_steps": 5}
    expected = dream(model, cat, cat, **params).facts["estimate"]
    assert expected["passes"] == 2 * 2 * (3 + 3 + 2 * 5)
    small, full = 58 * 65, 64 * 72
    pixels = 2 * 2 * (3 * small + (3 + 2 * 5) * full)
    one = model.costs()[model.dream_layer] / model.input_size**2
    assert expected["gigaflop"] == pytest.approx(pixels * one / 1e9, rel=1e-3)
