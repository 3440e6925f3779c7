"""Networks that take pictures of one size alone: what fits runs, the rest is refused at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from lantern import registry
from lantern.collections.folder import open_folder
from lantern.collections.library import Collections
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.run import estimate, run, validate
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from lantern.zoo import sketch


def square(side: int) -> Image:
    return Image(torch.rand(3, side, side, generator=torch.Generator().manual_seed(side)))


@pytest.fixture
def strict(near: VisionModel) -> VisionModel:
    """A network that takes 64x64 px alone."""
    model = copy.copy(near)
    model.any_size, model.kept = False, {}
    return model


@pytest.fixture
def collections(tmp_path: Path) -> Collections:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(square(70 + n).encode("image/png"))
    return Collections({"few": lambda: open_folder(tmp_path, "few")})


FITTING: list[tuple[str, dict[str, int], dict[str, Any]]] = [
    ("activation-maximization", {}, {"size": 64}),
    ("multifaceted", {"image": 80}, {"size": 64}),
    ("deep-dream", {"image": 80, "guide": 90}, {"size": 64, "octaves": 1, "guide_size": 64}),
    ("style-transfer", {"image": 80, "style": 48}, {"size": 64, "scales": 1}),
    (
        "texture-synthesis",
        {"image": 80},
        {"height": 64, "width": 64, "exemplar_size": 64, "scales": 1},
    ),
    ("train-decoder", {}, {"collection": "few", "size": 16, "batch": 2}),
    ("train-style", {"style": 48}, {"collection": "few", "crop": 64, "style_size": 64}),
    ("feature-inversion", {"image": 80}, {}),
    ("fooling-image", {"image": 80}, {}),
]


@pytest.mark.parametrize(("name", "sides", "params"), FITTING)
def test_what_fits_runs(
    name: str,
    sides: dict[str, int],
    params: dict[str, Any],
    strict: VisionModel,
    styles: StyleLibrary,
    collections: Collections,
) -> None:
    images = {slot: square(side) for slot, side in sides.items()}
    given = {"steps": 1} | params
    result = run(name, images, given, model=strict, styles=styles, collections=collections)
    assert all(artifact.is_finite() for artifact in result.artifacts)


@pytest.mark.parametrize(
    ("name", "sizes", "params", "pointer", "remedy"),
    [
        ("activation-maximization", {}, {}, "/params/size", "choose size=224"),
        ("multifaceted", {}, {}, "/params/size", "choose size=224"),
        (
            "deep-dream",
            {"image": [(300, 300)]},
            {"size": 224},
            "/params/size",
            "choose octaves=1 and size=224",
        ),
        (
            "deep-dream",
            {"image": [(300, 300)], "guide": [(300, 200)]},
            {"size": 224, "octaves": 1},
            "/params/guide_size",
            "square",
        ),
        (
            "style-transfer",
            {"image": [(300, 300)], "style": [(300, 300)]},
            {"size": 224},
            "/params/size",
            "scales=1",
        ),
        (
            "style-transfer",
            {"image": [(300, 300)], "style": [(200, 300)]},
            {"size": 224, "scales": 1},
            "/params/size",
            "square pictures",
        ),
        ("texture-synthesis", {"image": [(300, 300)]}, {}, "/params/height", "scales=1"),
        ("train-style", {"style": [(300, 300)]}, {"style_size": 224}, "/params/crop", "crop=224"),
        ("train-style", {"style": [(300, 400)]}, {"crop": 224}, "/params/crop", "square painting"),
    ],
)
def test_what_does_not_is_refused_with_the_remedy_before_it_begins(
    name: str, sizes: Any, params: dict[str, Any], pointer: str, remedy: str
) -> None:
    technique = registry.find(name)
    checked = validate(technique.params_type, params)
    with pytest.raises(InvalidParameter, match=remedy) as caught:
        estimate(technique, checked, sizes, sketch("vit-b-16"))
    assert caught.value.pointer == pointer
    assert "224x224 px alone" in caught.value.detail


def test_a_decoder_draws_smaller_than_the_network_looks(
    strict: VisionModel, collections: Collections
) -> None:
    params = {"collection": "few", "size": 16, "width": 4, "batch": 2, "steps": 2}
    result = run("train-decoder", {}, params, model=strict, collections=collections)
    assert result.principal.arrays()["preview"].shape[-2:] == (16, 16)


def test_copying_asks_no_network(collections: Collections) -> None:
    technique = registry.find("texture-synthesis")
    checked = validate(technique.params_type, {"method": "quilting"})
    assert estimate(technique, checked, {"image": [(90, 120)]}, sketch("vit-b-16"))["gigaflop"] > 0
