"""Textures look like their exemplars, are of any size, tile, and go on where they were left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern import samples
from lantern.artifact import Picture, Result
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.likeness import Likeness, Look, View, likeness
from lantern.optimize.objectives import gram
from lantern.progress import Progress, Step, Suspended, silent
from lantern.run import run
from lantern.techniques import weaver
from lantern.vision_model import VisionModel


@pytest.fixture(scope="module")
def gravel() -> Image:
    return Image.decode(samples.textures()["gravel"].read_bytes()).crop(100, 100, 160, 160)


@pytest.fixture(scope="module")
def brick() -> Image:
    return Image.decode(samples.textures()["brick"].read_bytes()).crop(0, 0, 160, 160)


def make(
    model: VisionModel,
    images: Any,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    **params: Any,
) -> Result:
    size: dict[str, Any] = {"height": 64, "width": 80, "exemplar_size": 64}
    return run(
        "texture-synthesis", {"image": images}, size | params, model=model, progress=progress,
        checkpoints=checkpoints,
    )  # fmt: skip


def pictures(result: Result) -> list[Tensor]:
    return [part.image.pixels for part in result.artifacts if isinstance(part, Picture)]


def gram_errors(model: VisionModel, pixels: Tensor, exemplar: Tensor) -> Tensor:
    """Return the relative error of the Gram matrix of each style layer."""
    with model.capture(model.style_layers) as look, torch.inference_mode():
        seen, wanted = look(pixels[None]), look(exemplar[None])
    pairs = [(gram(seen[name]), gram(wanted[name])) for name in model.style_layers]
    return torch.stack([(one - two).square().sum() / two.square().sum() for one, two in pairs])


def gram_error(model: VisionModel, pixels: Tensor, exemplar: Image) -> float:
    return float(gram_errors(model, pixels, exemplar.fit(64).pixels).mean())


def test_from_noise_every_layer_comes_within_a_hundredth(model: VisionModel, gravel: Image) -> None:
    exemplar = gravel.fit(64).pixels
    flat, chance = exemplar.flatten(1), torch.Generator().manual_seed(1)
    noise = flat[:, torch.randint(flat.shape[1], (64, 64), generator=chance)]
    (made,) = pictures(make(model, gravel, steps=400, scales=1, width=64))
    shares = gram_errors(model, made, exemplar) / gram_errors(model, noise, exemplar)
    assert shares.max() <= 0.01
    # the photograph is grey: what a network does not see must not show
    assert (made - made.mean(0)).abs().mean() < 0.04


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
@pytest.mark.parametrize("method", ["gram", "sliced-wasserstein"])
def test_features_come_to_those_of_the_exemplar(
    method: str, optimizer: str, model: VisionModel, gravel: Image
) -> None:
    result = make(model, gravel, method=method, optimizer=optimizer, steps=70, scales=1)
    (made,), (begun,) = pictures(result), pictures(make(model, gravel, steps=1, scales=1))
    assert made.shape == (3, 64, 80)
    assert gram_error(model, made, gravel) < 0.7 * gram_error(model, begun, gravel)
    (scale,) = result.facts["scales"]
    assert scale["loss"]["last"] < 0.65 * scale["loss"]["first"]


def test_colours_are_the_exemplars(model: VisionModel, gravel: Image) -> None:
    tinted = Image(gravel.pixels * torch.tensor([1.0, 0.6, 0.2])[:, None, None])
    (made,) = pictures(make(model, tinted, steps=30, scales=1))
    assert torch.allclose(made.mean((1, 2)), tinted.pixels.mean((1, 2)), atol=0.06)


@pytest.mark.parametrize(
    "params", [{"method": "growth", "window": 7}, {"method": "quilting", "block": 16}]
)
def test_copied_textures_are_made_of_the_exemplars_pixels(
    params: dict[str, Any], model: VisionModel, gravel: Image
) -> None:
    (made,) = pictures(make(model, gravel, **params))
    own = {tuple(pixel) for pixel in gravel.fit(64).pixels.flatten(1).T.tolist()}
    assert made.shape == (3, 64, 80)
    assert {tuple(pixel) for pixel in made.flatten(1).T.tolist()} <= own


@pytest.mark.parametrize(
    "params", [{"method": "growth", "window": 7}, {"method": "quilting", "block": 12}]
)
@pytest.mark.parametrize("size", [192, 24])
def test_what_needs_no_network_copies_exemplars_too_small_for_one(
    size: int, params: dict[str, Any], model: VisionModel, gravel: Image
) -> None:
    exemplar = gravel.fit(24) if size > 24 else gravel
    (made,) = pictures(make(model, exemplar, **params, exemplar_size=size, height=32, width=40))
    own = {tuple(pixel) for pixel in gravel.fit(24).pixels.flatten(1).T.tolist()}
    assert {tuple(pixel) for pixel in made.flatten(1).T.tolist()} <= own


@pytest.mark.parametrize(
    ("params", "shape", "pointer"),
    [
        ({"method": "growth", "window": 3}, (2, 2), "/params/window"),
        ({"method": "growth", "window": 11}, (9, 60), "/params/window"),
        ({"method": "quilting"}, (24, 24), "/params/block"),
        ({"method": "quilting", "block": 6}, (1, 1), "/params/block"),
        ({"method": "gram"}, (24, 24), "/params/exemplar_size"),
    ],
)
def test_what_is_too_small_for_a_method_is_refused_by_it(
    params: dict[str, Any], shape: tuple[int, int], pointer: str, model: VisionModel
) -> None:
    exemplar = Image(torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InvalidParameter) as caught:
        make(model, exemplar, **params)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("method", "side"), [("gram", 512), ("sliced-wasserstein", 512), ("quilting", 192)]
)
def test_a_network_looks_at_exemplars_closely(
    method: str, side: int, model: VisionModel, gravel: Image
) -> None:
    result = make(model, gravel.cover(600), method=method, exemplar_size=None, steps=1)
    assert result.facts["exemplars"] == [[side, side]]


def test_stripes_are_continued_exactly(model: VisionModel) -> None:
    stripes = (torch.arange(48) // 4 % 2).float().expand(3, 48, 48).contiguous()
    result = make(
        model, Image(stripes), method="growth", window=9, exemplar_size=48, height=48, width=48
    )
    (made,) = pictures(result)
    assert torch.equal(made[:, :1].expand_as(made), made)
    assert torch.equal(made[:, :, 8:], made[:, :, :-8])


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        ("gram", "adam"),
        ("gram", "l-bfgs"),
        ("sliced-wasserstein", "l-bfgs"),
        ("quilting", "l-bfgs"),
    ],
)
def test_a_tileable_texture_fits_to_itself(
    method: str, optimizer: str, model: VisionModel, brick: Image, gravel: Image
) -> None:
    # blocks of brick have seams of their own
    exemplar = gravel if method == "quilting" else brick
    params: dict[str, Any] = {
        "method": method, "optimizer": optimizer, "steps": 20, "scales": 1, "block": 20,
        "width": 64,
    }  # fmt: skip

    def seam(pixels: Tensor) -> float:
        """Return the step across the opposite edges over that between neighbours inside."""
        across = (pixels[:, 0] - pixels[:, -1]).abs().mean() + (
            pixels[..., 0] - pixels[..., -1]
        ).abs().mean()
        return float(across / (pixels.diff(dim=1).abs().mean() + pixels.diff(dim=2).abs().mean()))

    (made,) = pictures(make(model, exemplar, tileable=True, **params))
    assert seam(exemplar.fit(64).pixels) > 1.2 * seam(made)
    assert seam(made) < 1.25


def test_what_is_to_tile_is_enlarged_without_a_seam(model: VisionModel, gravel: Image) -> None:
    params: dict[str, Any] = {"height": 128, "width": 128, "scales": 2, "tv_weight": 0.0}
    (made,) = pictures(make(model, gravel, tileable=True, steps=40, **params))
    for dim in (1, 2):
        steps = (made - made.roll(1, dim)).abs().mean((0, 3 - dim))  # from the line before
        assert steps[0] < steps[1:].max()


@pytest.mark.parametrize(
    "params",
    [{"method": "growth", "window": 5}, {"method": "quilting", "block": 12}],
    ids=["growth", "quilting"],
)
@pytest.mark.parametrize("at", [2, 9])
def test_a_run_that_was_put_down_ends_in_the_same_bytes(
    params: dict[str, Any], at: int, model: VisionModel, gravel: Image, brick: Image
) -> None:
    small: dict[str, Any] = {"height": 40, "width": 40, "exemplar_size": 48} | params
    whole = pictures(make(model, [gravel, brick], **small))
    saved: list[bytes] = []
    seen: list[Step] = []
    with pytest.raises(Suspended):
        make(
            model, [gravel, brick], seen.append,
            Checkpoints(saved.append, every_s=3600, suspend=lambda: len(seen) == at), **small,
        )  # fmt: skip
    resumed = pictures(
        make(model, [gravel, brick], checkpoints=Checkpoints(saved=saved[-1]), **small)
    )
    assert len(resumed) == 2
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
def test_several_exemplars_make_as_many_textures(
    optimizer: str, model: VisionModel, gravel: Image, brick: Image
) -> None:
    params: dict[str, Any] = {"steps": 12, "scales": 1, "optimizer": optimizer}
    both = pictures(make(model, [gravel, brick], **params))
    assert gram_error(model, both[0], gravel) < gram_error(model, both[0], brick)
    assert gram_error(model, both[1], brick) < gram_error(model, both[1], gravel)


def test_by_l_bfgs_each_is_as_if_it_were_alone(
    model: VisionModel, gravel: Image, brick: Image
) -> None:
    seen: list[Step] = []
    both = make(model, [gravel, brick], seen.append, steps=4, scales=1)
    assert [step.done for step in seen] == list(range(1, 9))
    assert {step.total for step in seen} == {8}
    alone = make(model, gravel, steps=4, scales=1)
    assert torch.equal(pictures(both)[0], pictures(alone)[0])
    assert both.facts["textures"][0] == {"scales": alone.facts["scales"]}


def test_progress_and_preview_of_copied_textures(model: VisionModel, gravel: Image) -> None:
    seen: list[Step] = []
    result = make(model, gravel, seen.append, method="quilting", block=16)
    assert [step.done for step in seen] == list(range(1, seen[-1].total + 1))
    assert torch.equal(seen[-1].preview().pixels, pictures(result)[0])


@pytest.mark.parametrize("method", ["gram", "sliced-wasserstein"])
def test_a_long_exemplar_is_looked_at_as_large_as_the_network_needs(
    method: str, model: VisionModel
) -> None:
    long = Image(torch.rand(3, 50, 200, generator=torch.Generator().manual_seed(0)))
    result = make(model, long, method=method, exemplar_size=192, height=200, width=200, steps=1)
    assert pictures(result)[0].shape == (3, 200, 200)


def test_a_texture_in_tiles_is_that_of_the_whole(model: VisionModel, gravel: Image) -> None:
    params: dict[str, Any] = {
        "height": 320,
        "width": 288,
        "steps": 3,
        "scales": 1,
        "tv_weight": 0.0,
    }
    whole, tiled = (
        pictures(make(model, gravel, tile_size=side, **params))[0] for side in (512, 256)
    )
    assert not torch.equal(whole, tiled)
    assert (whole - tiled).abs().mean() < 0.02


@pytest.mark.parametrize(("optimizer", "views"), [("l-bfgs", 1), ("adam", 4)])
def test_only_adam_is_shown_a_large_texture_in_other_tiles_at_each_step(
    optimizer: str,
    views: int,
    model: VisionModel,
    gravel: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L-BFGS takes the difference of two gradients for curvature, not for that of two tilings."""
    seen: list[int] = []

    def spy(look: Look, ways: Sequence[View], drawing: None, **more: Any) -> Likeness:
        seen.append(len(ways))
        return likeness(look, ways, drawing, **more)

    monkeypatch.setattr(weaver, "likeness", spy)
    make(
        model, gravel, optimizer=optimizer, height=320, steps=2, scales=1, tile_size=256,
        layers=["_blocks.0"],
    )  # fmt: skip
    assert seen == [views]
