"""Maps of shares add up to the same over pictures of any size, and the network's own are kept."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from lantern.artifact import Result
from lantern.framing import Framing
from lantern.image import Image
from lantern.run import run
from lantern.techniques.target import LARGEST_MAP
from lantern.vision_model import VisionModel
from tests.transformers import tiny_vit


def arrays(result: Result) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    with np.load(io.BytesIO(result.npz())) as found:
        return dict(found)


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("height", "width"), [(448, 448), (150, 100), (224, 224), (300, 451)])
def test_shares_of_pixels_add_up_to_what_the_facts_say(
    height: int, width: int, fit: str, model: VisionModel, photo: Image
) -> None:
    given = {"steps": 2, "most_steps": 2, "evidence": 0, "fit": fit}
    result = run("integrated-gradients", {"image": photo.resize(height, width)}, given, model=model)
    found = arrays(result)
    total = result.facts["completeness"]["sum"]
    assert found["heatmap"].shape == (height, width)
    assert float(found["heatmap"].sum()) == pytest.approx(total, rel=1e-3)
    assert found["heatmap.grid"].shape == (224, 224)
    assert float(found["heatmap.grid"].sum()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (13, 7), (2, 3), (9, 5)])
def test_only_shares_become_smaller_where_there_are_more_pixels(size: tuple[int, int]) -> None:
    height, width = size
    framing = Framing(torch.zeros(1, 3, 4, 4), (2, 1, *size), (height + 3, width + 1))
    even = torch.full((4, 4), 0.5)
    seen = (slice(2, 2 + height), slice(1, 1 + width))
    assert torch.allclose(framing.to_picture(even)[seen], torch.tensor(0.5))
    assert torch.allclose(framing.spread(even)[seen], torch.tensor(8 / (height * width)))
    # of values that cancel, which a plain enlargement counts more or less often
    mixed = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    spread = framing.spread(mixed)
    assert float(spread.sum()) == pytest.approx(float(mixed.sum()), abs=1e-5)
    spread[seen] = 0
    assert not spread.any()
    if size == (4, 4):
        assert torch.allclose(framing.spread(mixed)[seen], mixed)


@pytest.mark.parametrize("method", ["rollout", "attn-lrp"])
def test_shares_of_patches_add_up_to_the_same_over_any_picture(method: str, photo: Image) -> None:
    totals = []
    for sides in ((32, 32), (64, 64), (75, 120)):
        result = run(
            "attention-map", {"image": photo.resize(32, 32).resize(*sides)},
            {"method": method, "evidence": 0, "target": 1}, model=tiny_vit(),
        )  # fmt: skip
        found = arrays(result)
        assert found["heatmap.grid"].shape == (4, 4)
        whole = float(found["heatmap.grid"].sum())
        assert float(found["heatmap"].sum()) == pytest.approx(whole, rel=1e-4)
        totals.append(whole)
    if method == "rollout":
        assert totals == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)


def test_the_grid_of_the_network_is_among_the_arrays(model: VisionModel, photo: Image) -> None:
    result = run("grad-cam", {"image": photo}, {"evidence": 0}, model=model)
    found = arrays(result)
    assert found.keys() == {"heatmap", "heatmap.grid", "signed", "signed.grid"}
    assert list(found["signed.grid"].shape) == result.facts["grid"] == [7, 7]
    assert np.array_equal(found["heatmap.grid"], found["signed.grid"].clip(0))
    assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize("name", ["saliency", "activations"])
def test_how_large_a_map_is_is_said(name: str, model: VisionModel) -> None:
    long = Image(torch.rand(3, 64, LARGEST_MAP + 100, generator=torch.Generator().manual_seed(0)))
    params = {"evidence": 0} if name == "saliency" else {}
    for image in (long, long.resize(64, 64)):
        result = run(name, {"image": image}, params, model=model)
        shape = arrays(result)["heatmap"].shape
        assert result.facts["map_size"] == list(shape)
        assert max(shape) == min(LARGEST_MAP, image.width)
