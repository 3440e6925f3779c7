"""Losses in tiles are those of the whole: value, gradient, and no seam in the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern import samples
from lantern.image import Image
from lantern.optimize.likeness import (
    Activations,
    Drawing,
    Likeness,
    View,
    grams_of,
    likeness,
    rolled,
    views_of,
)
from lantern.optimize.objectives import gram
from lantern.optimize.style import Grams, SlicedWasserstein
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.alive import watched

KERNEL = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(3))
STRIDES = {"near": 2, "far": 4}
SIZE = (300, 420)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def look(pixels: Tensor) -> tuple[Activations, Activations]:
    """Two layers, strides 2 and 4, that see 7 px around a position."""
    near = F.conv2d(pixels, KERNEL, padding=1, stride=2).relu()
    far = F.conv2d(near, KERNEL.transpose(0, 1), padding=1, stride=2)
    return {"near": near, "far": far}, {"far": far}


def hand(pixels: Tensor) -> Activations:
    return look(pixels)[0]


def blended() -> Grams:
    painting = {name: gram(act) for name, act in hand(noise(1, 3, 90, 120, seed=1)).items()}
    return Grams.blended([painting], [1.0])


def by_region() -> Grams:
    paintings = [
        {name: gram(act) for name, act in hand(noise(1, 3, 90, 120, seed=seed)).items()}
        for seed in (1, 2)
    ]
    mask = torch.linspace(0, 1, SIZE[1]).expand(SIZE)
    return Grams.by_region(paintings, [mask, 1 - mask], [1.0, 3.0])


def judged(judge: Likeness, pixels: Tensor, view: int) -> tuple[Tensor, list[float]]:
    """Return the gradient by the pixels, and the losses."""
    leaf = pixels.clone().requires_grad_()
    terms = judge(leaf, view)
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return leaf.grad, [terms.total.item(), terms.style, terms.content]


@pytest.mark.parametrize("has_content", [False, True])
@pytest.mark.parametrize("style", [blended, by_region])
def test_value_and_gradient_are_those_of_the_whole(
    style: Callable[[], Grams], has_content: bool
) -> None:
    shifts = [(0, 0), (3, 5)]
    views = [View(style().moved(by), by) for by in shifts]
    drawing = Drawing(noise(2, 3, *SIZE, seed=5), 0.3) if has_content else None
    pixels = noise(2, 3, *SIZE, seed=6)
    whole, tiled = (
        likeness(
            look, views, drawing, size=SIZE, side=side, strides=STRIDES,
            style_weight=2.5 if has_content else 1.0,
        )
        for side in (512, 256)
    )  # fmt: skip
    for view in range(2):
        expected, values = judged(whole, pixels, view)
        found, others = judged(tiled, pixels, view)
        assert others == pytest.approx(values, rel=1e-3)
        each = [judge(pixels, view).each.tolist() for judge in (whole, tiled)]
        assert each[1] == pytest.approx(each[0], rel=1e-3)
        assert sum(each[0]) == pytest.approx(values[0], rel=1e-4)
        assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_gram_matrices_in_tiles_are_those_of_the_whole() -> None:
    painting = noise(1, 3, 300, 420)
    found = grams_of(hand, painting, side=256, strides=STRIDES)
    for name, activation in hand(painting).items():
        assert torch.allclose(found[name], gram(activation), rtol=1e-4)


@pytest.mark.parametrize("shifts", [[(0, 0)], [(n, n) for n in range(6)]])
def test_borders_lie_elsewhere_in_each_view(shifts: list[tuple[int, int]]) -> None:
    """So none is seen in the sum of many steps, also where the picture is not shifted."""
    seen: list[tuple[int, ...]] = []

    def spy(pixels: Tensor) -> tuple[Activations, Activations]:
        seen.append(tuple(pixels.shape[2:]))
        return look(pixels)

    views = views_of(blended(), shifts, size=(700, 700), side=256)
    assert [view.by for view in views] == (shifts * 4 if len(shifts) == 1 else shifts)
    assert len(views_of(blended(), shifts, size=(200, 256), side=256)) == len(shifts)
    still = views_of(blended(), shifts, size=(700, 700), side=256, turns=False)
    assert [view.by for view in still] == shifts
    judge = likeness(spy, views, None, size=(700, 700), side=256, strides=STRIDES)
    shapes = []
    for view in range(4):
        seen.clear()
        judge(noise(1, 3, 700, 700), view)
        shapes.append(tuple(seen))
    assert len(set(shapes)) == 4


def test_distributions_are_not_judged_in_tiles() -> None:
    sliced = SlicedWasserstein([hand(noise(1, 3, 64, 64))], [1.0], torch.Generator())
    with pytest.raises(ValueError, match="SlicedWasserstein"):
        likeness(look, [View(sliced)], None, size=SIZE, side=256, strides=STRIDES)


def test_rolling_is_a_move_on_a_ring() -> None:
    pixels = noise(1, 3, 6, 7)
    assert torch.equal(rolled(rolled(pixels, (2, 3)), (4, 4)), pixels)


@pytest.fixture(scope="module")
def coffee() -> Image:
    return Image.decode(samples.photographs()["coffee"].read_bytes())


PAINTED = {"size": 400, "style_scale": 0.5, "scales": 1, "steps": 2}


class Painted(NamedTuple):
    """What came of a painting in tiles of a side, and the most that was kept for its gradient."""

    picture: Tensor
    most: int


@pytest.fixture(scope="module")
def painted(model: VisionModel, coffee: Image) -> dict[int, Painted]:
    """The same painting as a whole and in tiles of 256 px."""
    images = {"image": coffee, "style": Image(coffee.pixels.flip(0))}
    made = {}
    for side in (256, 512):
        with watched() as alive:
            result = run("style-transfer", images, PAINTED | {"tile_size": side}, model=model)
        picture = torch.from_numpy(result.principal.arrays()["picture"])
        made[side] = Painted(picture, alive.most)
    return made


def test_a_painting_in_tiles_is_that_of_the_whole(
    painted: dict[int, Painted], coffee: Image
) -> None:
    whole, tiled = painted[512].picture, painted[256].picture
    start = coffee.fit(400).pixels
    assert not torch.equal(whole, tiled)
    alike = F.cosine_similarity((tiled - start).flatten(), (whole - start).flatten(), 0)
    assert alike > 0.97


def test_tiles_bound_what_is_kept_for_the_gradient(painted: dict[int, Painted]) -> None:
    assert painted[256].most < 0.7 * painted[512].most
