"""Facets of a class: how pictures are grouped, and what is made of the groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lantern import samples
from lantern.artifact import Grid, Result, Table
from lantern.checkpoint import Checkpoints
from lantern.collections.folder import open_folder
from lantern.collections.library import Collections
from lantern.errors import InvalidParameter, LanternError
from lantern.image import Image
from lantern.optimize.parametrize import Fourier
from lantern.optimize.regularize import around_centre
from lantern.progress import Suspended
from lantern.run import run
from lantern.techniques.multifaceted import mean_cosine
from lantern.vision_model import VisionModel

SMALL = {"size": 48, "steps": 3}


@pytest.fixture
def flat() -> dict[str, Image]:
    """Seven pictures of two kinds: dark red and light blue, each of another shade."""
    made = {}
    for n in range(7):
        colour = [0.2 + n / 100, 0.0, 0.0] if n < 4 else [0.6, 0.7, 0.9 + n / 100]
        level = torch.tensor(colour)[:, None, None].expand(3, 40, 48)
        noise = 0.02 * torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(n))
        made[f"{'red' if n < 4 else 'blue'}/{n}.png"] = Image((level + noise).clamp(0, 1))
    return made


@pytest.fixture
def collections(flat: dict[str, Image], tmp_path: Path) -> Collections:
    for name, image in flat.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image.encode("image/png"))
    return Collections({"flat": lambda: open_folder(tmp_path, "flat")})


def facets_of(model: VisionModel, *images: Image, **params: Any) -> Result:
    return run("multifaceted", {"image": images}, SMALL | params, model=model)


def grid_of(result: Result) -> Tensor:
    assert isinstance(result.principal, Grid)
    return result.principal.images


def rows_of(result: Result) -> list[dict[str, Any]]:
    table = result.artifacts[1]
    assert isinstance(table, Table)
    return [dict(row) for row in table.rows]


def test_pictures_that_are_alike_are_one_facet_that_begins_as_their_mean(
    small_model: VisionModel, flat: dict[str, Image]
) -> None:
    result = facets_of(small_model, *flat.values(), facets=2)
    members = [set(row["members"].split(", ")) for row in rows_of(result)]
    assert members == [{f"image-{n}" for n in (1, 2, 3, 4)}, {f"image-{n}" for n in (5, 6, 7)}]
    means, made = grid_of(result).chunk(2)
    for mean, names in zip(means, members, strict=True):
        seen = [
            small_model.frame(list(flat.values())[int(name[-1]) - 1], "crop").pixels[0]
            for name in names
        ]
        wanted = torch.stack([Image(pixels).resize(48, 48).pixels for pixels in seen]).mean(0)
        assert torch.allclose(mean, wanted, atol=1e-5)
    assert not torch.allclose(means, made, atol=0.01)


def test_the_mean_is_that_of_the_nearest(small_model: VisionModel, flat: dict[str, Image]) -> None:
    result = facets_of(small_model, *flat.values(), facets=1, nearest=1)
    first = rows_of(result)[0]["members"].split(", ")[0]
    picture = list(flat.values())[int(first[-1]) - 1]
    wanted = Image(small_model.frame(picture, "crop").pixels[0]).resize(48, 48).pixels
    assert torch.allclose(grid_of(result)[0], wanted, atol=1e-6)


def test_there_are_no_more_facets_than_pictures(
    small_model: VisionModel, flat: dict[str, Image]
) -> None:
    result = facets_of(small_model, *list(flat.values())[:2], facets=16)
    assert len(rows_of(result)) == 2
    assert grid_of(result).shape == (4, 3, 48, 48)
    alone = facets_of(small_model, flat["red/0.png"], facets=16)
    assert len(rows_of(alone)) == 1
    assert alone.facts["feature_cosine"] is None


def test_a_collection_gives_the_pictures_the_network_puts_into_the_class(
    small_model: VisionModel, flat: dict[str, Image], collections: Collections
) -> None:
    def run_on(**params: Any) -> Result:
        return run(
            "multifaceted", {}, {"collection": "flat"} | SMALL | params,
            model=small_model, collections=collections,
        )  # fmt: skip

    with torch.no_grad():
        choices = {
            name: int(small_model.logits(small_model.frame(image, "crop").pixels).argmax())
            for name, image in flat.items()
        }
    for target in set(choices.values()):
        rows = rows_of(run_on(target=target))
        found = {name for row in rows for name in row["members"].split(", ")}
        assert found == {name for name, choice in choices.items() if choice == target}
    rows = rows_of(run_on(target=6, folder="blue"))
    assert {name for row in rows for name in row["members"].split(", ")} == {
        name for name in flat if name.startswith("blue/")
    }
    missing = next(n for n in range(7) if n not in choices.values())
    with pytest.raises(InvalidParameter, match="no picture of the collection") as caught:
        run_on(target=missing)
    assert caught.value.pointer == "/params/target"
    with pytest.raises(InvalidParameter, match="its folders are: blue, red") as caught:
        run_on(folder="gre")
    assert caught.value.pointer == "/params/folder"


def test_the_pictures_given_go_before_the_collection(
    small_model: VisionModel, flat: dict[str, Image], collections: Collections
) -> None:
    result = run(
        "multifaceted", {"image": [flat["red/0.png"]]}, {"collection": "flat"} | SMALL,
        model=small_model, collections=collections,
    )  # fmt: skip
    assert result.facts["pictures"] == {"from": "image", "count": 1}


def test_objectives_are_one_and_pointed_at(
    small_model: VisionModel, flat: dict[str, Image]
) -> None:
    picture = flat["red/0.png"]
    assert rows_of(facets_of(small_model, picture, objective="conv2:3"))[0]["class"] is None
    for objective in ("conv2:*", "conv2:99", "nonsense", "nowhere:1"):
        with pytest.raises(LanternError) as caught:
            facets_of(small_model, picture, objective=objective)
        assert caught.value.pointer == "/params/objective"


def test_the_ascent_works_on_the_centre_first(small_model: VisionModel, photo: Image) -> None:
    def inwards(**params: float) -> float:
        result = facets_of(small_model, photo, target=3, jitter=0, tv_weight=0, **params)
        change = (grid_of(result)[1] - grid_of(result)[0]).square().sum(0)
        return float(change[12:36, 12:36].sum() / change.sum())

    assert inwards(center=0.08, center_end=0.08) > 0.6
    assert inwards(center=2, center_end=2) < 0.4
    weight = around_centre(9, 0.25)
    assert weight[4, 4] == 1
    assert torch.allclose(weight, weight.flip(0).T)
    assert weight[4, 0] == pytest.approx(2.718281828 ** -((4 / 9) ** 2 / (2 * 0.25**2)))


def test_a_run_that_is_resumed_ends_as_one_that_was_not(
    small_model: VisionModel, flat: dict[str, Image]
) -> None:
    images, params = {"image": tuple(flat.values())}, {"size": 48, "steps": 6, "facets": 3}
    whole = run("multifaceted", images, params, model=small_model, seed=4)
    saved: list[bytes] = []
    stop = iter([False, False, True])
    with pytest.raises(Suspended):
        run(
            "multifaceted", images, params, model=small_model, seed=4,
            checkpoints=Checkpoints(saved.append, suspend=lambda: next(stop)),
        )  # fmt: skip
    again = run(
        "multifaceted", images, params, model=small_model, seed=4,
        checkpoints=Checkpoints(saved=saved[-1]),
    )  # fmt: skip
    assert torch.equal(grid_of(whole), grid_of(again))
    assert rows_of(whole) == rows_of(again)


def test_a_run_stops_behind_the_pictures_it_looks_at(
    small_model: VisionModel, flat: dict[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("facets", "multifaceted"):
        monkeypatch.setattr(f"lantern.techniques.{module}.BATCH", 2)
    steps: list[int] = []
    saved: list[bytes] = []
    with pytest.raises(Suspended):
        run(
            "multifaceted", {"image": tuple(flat.values())}, SMALL, model=small_model,
            progress=lambda step: steps.append(step.done),
            checkpoints=Checkpoints(saved.append, suspend=lambda: len(steps) == 3),
        )  # fmt: skip
    assert (steps, len(saved)) == ([1, 2, 3], 1)


def test_facets_keep_their_class_and_differ_more_than_restarts_do(model: VisionModel) -> None:
    found = samples.photographs()
    pictures = [Image.decode(found[name].read_bytes()) for name in ("cat", "rocket")]
    noise = Fourier.noise((2, 3, 96, 96), torch.Generator().manual_seed(1), spread=0.5)
    restarts = [Image(pixels.clamp(0, 1).detach()) for pixels in noise.pixels()]
    params = {"target": 88, "facets": 2, "size": 80, "steps": 16, "learning_rate": 0.8}
    facets = facets_of(model, *pictures, **params)
    assert [row["place"] for row in rows_of(facets)] == [1, 1]
    likeness = facets_of(model, *restarts, **params).facts["feature_cosine"]
    assert facets.facts["feature_cosine"] < likeness - 0.1


def test_likeness_is_the_mean_cosine_of_all_pairs() -> None:
    features = torch.tensor([[2.0, 0], [0, 3], [1, 1]])
    assert mean_cosine(features) == pytest.approx((0 + 2 * 0.5**0.5) / 3, abs=1e-4)
