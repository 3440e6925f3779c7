"""Style transfer does what its parameters say: statistics, blends, regions, colours, scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern import samples
from lantern.artifact import Picture, Result
from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.metrics import psnr
from lantern.optimize.objectives import gram
from lantern.optimize.style import Grams, SlicedWasserstein, Style, smoothed
from lantern.palette import grey, luma, recoloured, with_colours_of
from lantern.records import RECORDS
from lantern.run import run
from lantern.vision_model import VisionModel
from lantern.zoo import presented

SHORT = {"size": 96, "steps": 24, "scales": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(seed: int, height: int = 6, width: int = 8) -> dict[str, Tensor]:
    chance = generator(seed)
    return {
        "a": torch.rand(1, 4, height, width, generator=chance),
        "b": torch.rand(1, 7, height // 2, width // 2, generator=chance),
    }


def grams(activations: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gram(act) for name, act in activations.items()}


class TestStyles:
    def test_a_paintings_own_features_have_no_loss(self) -> None:
        own = features(0)
        for style in (
            Grams.blended([grams(own)], [1.0]),
            SlicedWasserstein([own], [3.0], generator()),
            Grams.by_region([grams(own)], [torch.ones(12, 16)], [1.0]),
        ):
            assert style.loss(own).tolist() == pytest.approx([0], abs=1e-10)
            assert (style.loss(features(1)) > 1e-3).all()

    def test_statistics_forget_where_things_are(self) -> None:
        own = features(0)
        order = torch.randperm(48, generator=generator(2))
        mixed = {"a": own["a"].flatten(2)[..., order].view(1, 4, 6, 8), "b": own["b"].flip(3)}
        for style in (
            Grams.blended([grams(own)], [1.0]),
            SlicedWasserstein([own], [1.0], generator()),
        ):
            assert style.loss(mixed).item() == pytest.approx(0, abs=1e-9)

    def test_a_blend_is_the_weighted_mean_of_the_gram_matrices(self) -> None:
        one, two, seen = features(0), features(1), features(2)
        errors = []
        for name in ("a", "b"):
            target = (3 * gram(one[name]) + gram(two[name])) / 4
            errors.append(((gram(seen[name]) - target) ** 2).sum() / (target**2).sum())
        blend = Grams.blended([grams(one), grams(two)], [3.0, 1.0]).loss(seen).item()
        assert blend == pytest.approx(float(sum(errors)) / 2, rel=1e-5)

    def test_layers_count_by_their_shares(self) -> None:
        own, seen, shares = features(0), features(1), {"a": 3.0, "b": 1.0}
        ways: list[Callable[[dict[str, Tensor], dict[str, float] | None], Style]] = [
            lambda only, shares: Grams.blended([grams(only)], [1.0], shares),
            lambda only, shares: SlicedWasserstein([only], [1.0], generator(), shares),
        ]
        for style in ways:
            # directions are drawn layer by layer, those of "a" first
            a, both = style({"a": own["a"]}, None).loss(seen), style(own, None).loss(seen)
            b = 2 * both - a
            assert torch.allclose(style(own, shares).loss(seen), (3 * a + b) / 4, rtol=1e-4)

    def test_a_region_looks_only_under_its_mask(self) -> None:
        left = torch.zeros(6, 8)
        left[:, :4] = 1
        one, two, seen = features(0), features(1), features(2)
        half = {name: act[..., : act.shape[3] // 2] for name, act in seen.items()}
        style = Grams.by_region([grams(one), grams(two)], [left, 1 - left], [1.0, 1.0])
        other = {name: act[..., act.shape[3] // 2 :] for name, act in seen.items()}
        expected = (
            Grams.blended([grams(one)], [1.0]).loss(half)
            + Grams.blended([grams(two)], [1.0]).loss(other)
        ) / 2
        assert torch.allclose(style.loss(seen), expected, rtol=1e-4)

    def test_masks_move_with_the_picture(self) -> None:
        mask = (torch.rand(6, 8, generator=generator(3)) > 0.5).float()
        own, seen = features(0), {"a": features(1)["a"]}
        style = Grams.by_region([grams({"a": own["a"]})], [mask], [1.0])
        rolled = {"a": seen["a"].roll((2, 3), (2, 3))}
        assert torch.allclose(style.moved((2, 3)).loss(rolled), style.loss(seen))

    def test_an_empty_mask_is_no_trouble(self) -> None:
        style = Grams.by_region([grams(features(0))], [torch.zeros(6, 8)], [1.0])
        assert style.loss(features(1)).isfinite().all()

    def test_sliced_distances_of_one_channel_are_those_of_sorted_values(self) -> None:
        own = {"a": torch.rand(1, 1, 16, 32, generator=generator())}
        seen = {"a": torch.rand(1, 1, 16, 32, generator=generator(1))}
        style = SlicedWasserstein([own], [1.0], generator())
        target, found = (x["a"].flatten().sort().values for x in (own, seen))
        assert style.loss(seen).item() == pytest.approx(
            float(((found - target) ** 2).sum() / (target**2).sum()), rel=1e-4
        )

    def test_sizes_may_differ(self) -> None:
        large = {"a": torch.rand(1, 4, 64, 64, generator=generator())}
        small = {"a": large["a"][..., ::2, ::2]}
        style = SlicedWasserstein([large], [1.0], generator())
        assert style.loss(small).item() < 0.01

    def test_smoothing_flattens_peaks(self) -> None:
        seen = {"a": torch.zeros(1, 4, 2, 2)}
        seen["a"][:, 1] = 30
        smooth = smoothed(seen)["a"]
        assert torch.allclose(smooth.sum(1), torch.full((1, 2, 2), 4.0))
        assert smooth.max() <= 4.001


class TestPalette:
    def test_luma_is_kept_and_chroma_given(self) -> None:
        image = Image(0.4 + 0.2 * torch.rand(3, 8, 8, generator=generator()))
        photo = Image(0.4 + 0.2 * torch.rand(3, 8, 8, generator=generator(1)))
        made = with_colours_of(image, photo)
        assert torch.allclose(luma(made.pixels), luma(image.pixels), atol=1e-5)
        chroma = made.pixels - luma(made.pixels)
        assert torch.allclose(chroma, photo.pixels - luma(photo.pixels), atol=1e-5)

    def test_a_recoloured_painting_has_the_photographs_histogram(self) -> None:
        painting = Image(torch.rand(3, 32, 32, generator=generator()) ** 3)
        photo = Image(torch.rand(3, 24, 40, generator=generator(1)))
        made = recoloured(painting, photo)
        for channel in range(3):
            found, wanted = (
                torch.quantile(image.pixels[channel].flatten(), torch.tensor([0.1, 0.5, 0.9]))
                for image in (made, photo)
            )
            assert torch.allclose(found, wanted, atol=0.02)


@pytest.fixture(scope="module")
def photo() -> Image:
    return Image.decode(samples.photographs()["cat"].read_bytes()).crop(30, 80, 240, 240)


@pytest.fixture(scope="module")
def brick() -> Image:
    return Image.decode(samples.textures()["brick"].read_bytes()).crop(0, 0, 256, 256)


@pytest.fixture(scope="module")
def painting() -> Image:
    return Image.decode(samples.photographs()["coffee"].read_bytes()).crop(0, 100, 300, 300)


def paint(model: VisionModel, images: Any, seed: int = 0, **params: Any) -> Result:
    return run("style-transfer", images, SHORT | params, model=model, seed=seed)


def drawn(result: Result) -> Image:
    assert isinstance(result.principal, Picture)
    return result.principal.image


def style_errors(model: VisionModel, image: Image, painting: Image) -> Tensor:
    """Return the relative Gram error of each style layer."""
    with model.capture(model.style_layers) as look, torch.inference_mode():
        seen, wanted = look(image.pixels[None]), look(painting.fit(96).pixels[None])
    errors = [gram(seen[n]) - gram(wanted[n]) for n in model.style_layers]
    return torch.stack(
        [
            e.square().sum() / gram(wanted[n]).square().sum()
            for e, n in zip(errors, model.style_layers, strict=True)
        ]
    )


def test_style_losses_fall_in_every_layer(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    before = style_errors(model, photo.fit(96), painting)
    made = drawn(paint(model, {"image": photo, "style": painting}, steps=60, content_weight=0.02))
    after = style_errors(model, made, painting)
    assert (after <= 0.35 * before).all()
    assert after.mean() <= 0.3 * before.mean()


def test_the_papers_way_brings_every_layer_to_a_tenth(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    before = style_errors(model, photo.fit(96), painting)
    made = drawn(
        paint(
            model, {"image": photo, "style": painting}, content_weight=0.02, optimizer="l-bfgs",
            shifts=1, scales=2, steps=90,
        )
    )  # fmt: skip
    assert (style_errors(model, made, painting) <= 0.1 * before).all()


def test_without_a_style_the_photograph_stays(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    images, small = {"image": photo, "style": painting}, photo.fit(96).pixels
    kept, repainted = (
        psnr(drawn(paint(model, images, style_weight=weight, tv_weight=0.0)).pixels, small)
        for weight in (0.0, 1.0)
    )
    assert kept > 40
    assert repainted < 25


def test_paintings_count_by_their_weights(
    model: VisionModel, photo: Image, painting: Image, brick: Image
) -> None:
    for weights, more, less in (([9.0, 1.0], painting, brick), ([1.0, 9.0], brick, painting)):
        made = drawn(
            paint(
                model, {"image": photo, "style": [painting, brick]}, style_weights=weights,
                content_weight=0.02,
            )
        )  # fmt: skip
        assert style_errors(model, made, more).mean() < style_errors(model, made, less).mean()


def test_it_begins_with_what_it_is_given(model: VisionModel, photo: Image, brick: Image) -> None:
    images = {"image": photo, "style": photo}
    start = {"start": brick.resize(96, 96)}
    begun = {
        "start": drawn(paint(model, images | start, steps=1)).pixels,
        "noise": drawn(paint(model, images, steps=1, init="noise")).pixels,
        "content": drawn(paint(model, images, steps=1)).pixels,
    }
    for name, wanted in (("start", start["start"].pixels), ("content", photo.fit(96).pixels)):
        far = {other: float((pixels - wanted).abs().mean()) for other, pixels in begun.items()}
        assert far.pop(name) < 0.06
        assert min(far.values()) > 0.1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("squeezenet1-1", {}),
        ("alexnet", {"optimizer": "l-bfgs"}),
        ("resnet18", {"smoothing": True}),
        ("densenet121", {"statistic": "sliced-wasserstein"}),
    ],
)
def test_other_networks_paint_by_their_own_layers(
    name: str, params: dict[str, Any], photo: Image, painting: Image
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = presented(RECORDS[name], RECORDS[name].build(), "")
    images, given = {"image": photo, "style": painting}, {"size": 64, "steps": 10, **params}
    facts = paint(other, images, **given, tv_weight=0.0).facts
    assert facts["loss"]["last"] < 0.8 * facts["loss"]["first"]


def test_a_mask_keeps_the_painting_in_its_region(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    left = torch.zeros(3, 96, 96)
    left[:, :, :48] = 1
    images = {"image": photo, "style": painting, "mask": Image(left)}
    change = (drawn(paint(model, images)).pixels - photo.fit(96).pixels).abs()
    assert change[:, :, :48].mean() > 0.05
    assert change[:, :, 48:].max() < 1e-5


def test_each_painting_has_the_region_of_its_mask(
    model: VisionModel, photo: Image, painting: Image, brick: Image
) -> None:
    left = torch.zeros(3, 96, 96)
    left[:, :, :48] = 1
    images = {
        "image": photo, "style": [painting, brick], "mask": [Image(left), Image(1 - left)],
    }  # fmt: skip
    made = drawn(paint(model, images, content_weight=0.02))
    for half, own, other in ((0, painting, brick), (48, brick, painting)):
        part = made.crop(0, half, 96, 48)
        assert style_errors(model, part, own).mean() < style_errors(model, part, other).mean()


def test_the_photographs_colours_are_kept(model: VisionModel, photo: Image) -> None:
    red = Image(
        torch.rand(3, 96, 96, generator=generator()) * torch.tensor([1.0, 0.1, 0.1])[:, None, None]
    )
    images = {"image": photo, "style": red}
    small = photo.fit(96)

    def redness(image: Image) -> float:
        return float(image.pixels[0].mean() - image.pixels[1:].mean())

    plain = redness(drawn(paint(model, images, content_weight=0.02)))
    for color in ("luminance", "histogram"):
        kept = redness(drawn(paint(model, images, content_weight=0.02, color=color)))
        assert abs(kept - redness(small)) < 0.5 * abs(plain - redness(small))
    made = drawn(paint(model, images, color="luminance"))
    chroma = made.pixels - luma(made.pixels)
    inside = ((made.pixels > 0) & (made.pixels < 1)).all(0)
    assert torch.allclose(
        chroma[:, inside], (small.pixels - luma(small.pixels))[:, inside], atol=1e-4
    )


def test_photographs_of_one_size_are_a_batch_and_others_follow(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    wide = photo.crop(0, 0, 160, 240)
    other = Image(photo.pixels.flip(2))
    steps: list[tuple[int, int]] = []
    result = run(
        "style-transfer", {"image": [photo, wide, other], "style": painting}, SHORT | {"steps": 8},
        model=model, progress=lambda step: steps.append((step.done, step.total)),
    )  # fmt: skip
    assert [a.name for a in result.artifacts] == ["picture", "picture-2", "picture-3"]
    assert steps[-1] == (16, 16)
    sizes = [a.image.pixels.shape[1:] for a in result.artifacts if isinstance(a, Picture)]
    assert sizes == [(96, 96), (64, 96), (96, 96)]
    alone = drawn(paint(model, {"image": photo, "style": painting}, steps=8))
    # rounding, which another batch does otherwise, grows in a few pixels from step to step
    assert (alone.pixels - drawn(result).pixels).abs().mean() < 0.002


def test_by_l_bfgs_each_photograph_is_as_if_it_were_alone(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    other = Image(photo.pixels.flip(2))
    params: dict[str, Any] = {"optimizer": "l-bfgs", "steps": 4}
    both = paint(model, {"image": [photo, other], "style": painting}, **params)
    alone = paint(model, {"image": photo, "style": painting}, **params)
    assert torch.equal(drawn(both).pixels, drawn(alone).pixels)
    assert both.facts["batches"][0] == {n: alone.facts[n] for n in both.facts["batches"][0]}


def test_scales_go_from_small_to_full(model: VisionModel, photo: Image, painting: Image) -> None:
    previews: list[tuple[int, int]] = []
    run(
        "style-transfer", {"image": photo, "style": painting},
        SHORT | {"size": 200, "scales": 5, "steps": 2}, model=model,
        progress=lambda step: previews.append((step.preview().height, step.total)),
    )  # fmt: skip
    heights = [height for height, _ in previews]
    # a size below 64 px is left out
    assert heights == [71, 71, 100, 100, 141, 141, 200, 200]
    assert {total for _, total in previews} == {8}


def test_the_estimate_follows_size_steps_and_scales(
    model: VisionModel, photo: Image, painting: Image
) -> None:
    def gigaflop(**params: Any) -> float:
        images = {"image": photo, "style": painting}
        return float(paint(model, images, **{"steps": 1} | params).facts["estimate"]["gigaflop"])

    assert gigaflop(size=192) > 3 * gigaflop(size=96)
    assert gigaflop(scales=2) == pytest.approx(1.5 * gigaflop(), rel=0.01)
    assert gigaflop(style_layers=["_blocks.1"], content_layers=["_blocks.1"]) < 0.5 * gigaflop()


@pytest.mark.parametrize(
    ("inputs", "params", "pointer"),
    [
        ({}, {"style_weights": [1.0, 2.0]}, "/params/style_weights"),
        ({"mask": 2}, {}, "/inputs/mask"),
        ({"mask": 1}, {"statistic": "sliced-wasserstein"}, "/params/statistic"),
        ({}, {"style_layer_weights": [1.0]}, "/params/style_layer_weights"),
        ({}, {"optimizer": "l-bfgs", "shifts": 2}, "/params/shifts"),
        ({}, {"style_layers": ["nowhere"]}, "/params/style_layers"),
        ({}, {"style_layers": ["_fc"]}, "/params/style_layers"),
        ({}, {"content_layers": ["nowhere"]}, "/params/content_layers"),
        (
            {},
            {"size": 300, "statistic": "sliced-wasserstein", "tile_size": 256, "style_scale": 4.0},
            "/params/statistic",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    inputs: dict[str, int], params: dict[str, Any], pointer: str, model: VisionModel, photo: Image
) -> None:
    images: dict[str, Any] = {"image": photo, "style": photo}
    images |= {slot: [grey(photo)] * count for slot, count in inputs.items()}
    with pytest.raises((InvalidParameter, UnknownName)) as caught:
        paint(model, images, **params)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("bound", "params", "pointer"),
    [
        ("MOST_PIXELS", {}, "/params/size"),
        ("MOST_LBFGS_PIXELS", {"optimizer": "l-bfgs"}, "/params/size"),
        ("MOST_PAINTING", {"style_scale": 4.0}, "/params/style_scale"),
    ],
)
def test_what_would_take_too_much_memory_is_refused(
    bound: str,
    params: dict[str, Any],
    pointer: str,
    model: VisionModel,
    photo: Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = {"image": photo, "style": photo}
    assert paint(model, images, steps=1, **params).facts["steps"] == 1
    monkeypatch.setattr(f"lantern.techniques.style_transfer.{bound}", 300)
    with pytest.raises(InvalidParameter, match="300") as caught:
        paint(model, images, steps=1, **params)
    assert caught.value.pointer == pointer


def test_the_softmax_of_equal_features_is_flat() -> None:
    flat = smoothed({"a": torch.full((1, 5, 2, 2), math.pi)})["a"]
    assert torch.allclose(flat, torch.ones_like(flat))
