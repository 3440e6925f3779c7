"""A picture is found again from a layer's features, the worse the deeper the layer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from lantern import samples
from lantern.artifact import Grid, Result, Table
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.progress import Progress, Step, Suspended, silent
from lantern.run import run
from lantern.vision_model import VisionModel


def photo(name: str) -> Image:
    return Image.decode(samples.photographs()[name].read_bytes()).cover(128)


@pytest.fixture(scope="module")
def small_view(model: VisionModel) -> VisionModel:
    """The real network, looking at pictures of 96 px."""
    return VisionModel(
        "lite0-96",
        model.network,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        input_size=96,
        resize_size=104,
        labels=model.labels,
        weights_sha256=model.weights_sha256,
        style_layers=model.style_layers,
        content_layers=model.content_layers,
        dream_layer=model.dream_layer,
        cam_layer=model.cam_layer,
    )


def invert(
    model: VisionModel,
    images: Any,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    **params: Any,
) -> Result:
    return run(
        "feature-inversion", {"image": images}, params, model=model, progress=progress,
        checkpoints=checkpoints,
    )  # fmt: skip


def rows(result: Result) -> tuple[Mapping[str, Any], ...]:
    table = result.artifacts[1]
    assert isinstance(table, Table)
    return table.rows


def test_pictures_are_found_again_and_detail_fades_with_depth(small_view: VisionModel) -> None:
    layers = ["_blocks.0", "_blocks.4", "_conv_head"]
    cat = photo("cat")
    found = {row["layer"]: row for row in rows(invert(small_view, cat, layers=layers, steps=60))}
    assert found["_blocks.0"]["relative_error"] <= 0.02
    assert found["_blocks.4"]["relative_error"] <= 0.1
    assert found["_conv_head"]["relative_error"] <= 0.2
    decibels = [found[layer]["psnr_db"] for layer in layers]
    assert decibels == sorted(decibels, reverse=True)
    assert found["_conv_head"]["class_kept"]
    # and nearer than any other photograph is
    own = small_view.frame(cat).pixels
    with small_view.capture(layers) as look, torch.inference_mode():
        wanted = look(own)
        for name in ("coffee", "rocket", "astronaut"):
            seen = look(small_view.frame(photo(name)).pixels)
            for layer in layers:
                distance = (seen[layer] - wanted[layer]).square().sum()
                distance = distance / wanted[layer].square().sum()
                share = 0.5 if layer == "_conv_head" else 0.1
                assert found[layer]["relative_error"] <= share * float(distance)


def test_a_layer_that_loses_nothing_is_undone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            OrderedDict(mix=nn.Conv2d(3, 6, 1), gap=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
        )
    whole = VisionModel(
        "mix", network, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=32, resize_size=36,
        labels=("a",), cam_layer="mix", dream_layer="mix",
    )  # fmt: skip
    result = invert(whole, photo("cat"), layers=["mix"], steps=300, tv_weight=0, alpha_weight=0)
    assert rows(result)[0]["psnr_db"] > 40


@pytest.mark.parametrize("parametrization", ["pixel", "fourier"])
def test_a_batch_finds_what_single_runs_find(parametrization: str, small_view: VisionModel) -> None:
    pictures = [photo("cat"), photo("rocket")]
    params: dict[str, Any] = {
        "layers": ["_blocks.2"], "steps": 8, "parametrization": parametrization
    }  # fmt: skip
    both = invert(small_view, pictures, **params)
    assert isinstance(both.principal, Grid)
    for place, picture in enumerate(pictures):
        alone = invert(small_view, picture, **params).principal
        assert isinstance(alone, Grid)
        assert torch.allclose(both.principal.images[2 * place + 1], alone.images[1], atol=0.02)


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_that_was_put_down_ends_in_the_same_bytes(at: int, small_view: VisionModel) -> None:
    params: dict[str, Any] = {"layers": ["_blocks.0", "_blocks.5"], "steps": 3}
    whole = invert(small_view, photo("cat"), **params)
    saved: list[bytes] = []
    seen: list[Step] = []
    with pytest.raises(Suspended):
        invert(
            small_view, photo("cat"), seen.append,
            Checkpoints(saved.append, every_s=3600, suspend=lambda: len(seen) == at), **params,
        )  # fmt: skip
    resumed = invert(small_view, photo("cat"), checkpoints=Checkpoints(saved=saved[-1]), **params)
    assert resumed.principal.encode("image/png") == whole.principal.encode("image/png")
    assert rows(resumed) == rows(whole)


def test_the_strip_has_the_picture_first_and_says_what_is_lost(small_view: VisionModel) -> None:
    result = invert(small_view, [photo("cat"), photo("rocket")], layers=["_blocks.1"], steps=2)
    strip = result.principal
    assert isinstance(strip, Grid)
    assert strip.images.shape == (4, 3, 96, 96)
    assert torch.equal(strip.images[2], small_view.frame(photo("rocket")).pixels[0])
    assert [caption.split()[0] for caption in strip.captions] == ["picture", "_blocks.1"] * 2
    assert [row["picture"] for row in rows(result)] == [1, 2]


def test_layers_are_ordered_by_depth_and_cost_what_they_take(small_view: VisionModel) -> None:
    def gigaflop(*layers: str) -> float:
        result = invert(small_view, photo("cat"), layers=list(layers), steps=1)
        return float(result.facts["estimate"]["gigaflop"])

    shallow, deep = gigaflop("_blocks.1"), gigaflop("_conv_head")
    assert deep > 3 * shallow
    assert gigaflop("_blocks.1", "_conv_head") == pytest.approx(shallow + deep, rel=0.01)
    steps = invert(small_view, photo("cat"), steps=1).facts["steps"]
    costs = [small_view.costs()[layer] for layer in steps]
    assert costs == sorted(costs)
    assert len(costs) >= 5


def test_wrong_layers_are_refused(small_view: VisionModel) -> None:
    for layers in (["nowhere"], ["_blocks"], ["_blocks.1", "_blocks.1"]):
        with pytest.raises((InvalidParameter, UnknownName)) as caught:
            invert(small_view, photo("cat"), layers=layers)
        assert caught.value.pointer == "/params/layers"
