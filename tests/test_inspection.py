"""Filters and activation maps: the numbers are those of the network."""

from __future__ import annotations

import io
from typing import cast

import numpy as np
import pytest
import torch
from captum.attr import LayerActivation
from torch import nn

from lantern.artifact import Grid, Heatmap, Table
from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.records import RECORDS
from lantern.run import run
from lantern.techniques import sheets
from lantern.techniques.filters import FiltersParams, check_size
from lantern.vision_model import VisionModel
from lantern.zoo import sketched


def filters(model: VisionModel, **params: object) -> tuple[Grid, dict[str, object]]:
    result = run("filters", {}, params, model=model)
    assert isinstance(result.principal, Grid)
    return result.principal, dict(result.facts)


def weights(model: VisionModel, name: str) -> torch.Tensor:
    layer = model.layer(name)
    assert isinstance(layer, nn.Conv2d)
    return layer.weight.detach()


def with_first_layer(name: str) -> VisionModel:
    """Return a network of the zoo of which only the first layer has weights, by chance."""
    model = sketched(RECORDS[name])
    first = next(m for m in model.network.modules() if isinstance(m, nn.Conv2d))
    first.to_empty(device="cpu")
    first.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return model


def read_back(model: VisionModel, tiles: torch.Tensor, **params: object) -> torch.Tensor:
    """Undo the scaling of tiles `[N,3,h,w]`."""
    table = run("filters", {}, params, model=model).artifacts[1]
    assert isinstance(table, Table)
    assert [row["filter"] for row in table.rows] == list(range(len(tiles)))
    low, high = (torch.tensor([row[end] for row in table.rows]) for end in ("low", "high"))
    return tiles * (high - low)[:, None, None, None] + low[:, None, None, None]


class TestFilters:
    def test_the_first_layer_is_in_colour_and_can_be_read_back(self, model: VisionModel) -> None:
        grid, facts = filters(model, scaling="global", enlarge=1)
        own = weights(model, "_conv_stem")
        assert facts["layer"] == "_conv_stem"
        assert grid.images.shape == own.shape
        low, high = cast(list[float], facts["range"])
        assert torch.allclose(grid.images * (high - low) + low, own, atol=1e-6)

    @pytest.mark.parametrize("name", ["alexnet", "resnet18", "resnet101", "densenet121"])
    @pytest.mark.parametrize("scaling", ["filter", "global", "symmetric"])
    def test_first_layers_can_be_read_back(self, name: str, scaling: str) -> None:
        model = with_first_layer(name)
        grid, facts = filters(model, scaling=scaling, enlarge=1)
        own = weights(model, str(facts["layer"]))
        assert grid.images.shape == own.shape
        assert own.shape[:2] == (64, 3)
        assert torch.allclose(read_back(model, grid.images, scaling=scaling), own, atol=1e-6)

    @pytest.mark.parametrize(
        ("given", "groups"), [(3, 3), (1, 1), (12, 4)], ids=["by colour", "grey", "deeper groups"]
    )
    def test_only_filters_of_colours_are_in_colour(self, given: int, groups: int) -> None:
        layer = nn.Conv2d(given, 12, 3, groups=groups)
        model = VisionModel(
            "one", nn.Sequential(layer), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=32,
            resize_size=32, labels=(),
        )  # fmt: skip
        grid, _ = filters(model, enlarge=1)
        assert torch.equal(grid.images[:, 0], grid.images[:, 2])
        first = read_back(model, grid.images)[:, 0, :3, :3]
        assert torch.allclose(first, layer.weight.detach()[:, 0], atol=1e-6)

    def test_each_filter_has_its_own_range(self, model: VisionModel) -> None:
        grid, facts = filters(model, enlarge=1)
        spread = grid.images.flatten(1)
        assert torch.allclose(spread.amax(1), torch.tensor(1.0))
        assert float(spread.amin(1).max()) == 0
        # also those that the network has given up, which the facts tell of
        reach = weights(model, "_conv_stem").abs().amax((1, 2, 3))
        assert facts["faint"] == int((reach < reach.max() / 1000).sum()) > 0

    def test_symmetric_scaling_makes_zero_mid_grey(self, model: VisionModel) -> None:
        grid, _ = filters(model, scaling="symmetric", enlarge=1)
        own = weights(model, "_conv_stem")
        assert torch.allclose(grid.images, own / own.abs().max() / 2 + 0.5, atol=1e-6)

    def test_a_weight_becomes_a_square(self, model: VisionModel) -> None:
        small, large = (filters(model, enlarge=e)[0].images for e in (1, 4))
        assert large.shape[2:] == (12, 12)
        assert torch.equal(large[:, :, ::4, ::4], small)
        assert torch.equal(large[:, :, 3::4, 3::4], small)

    def test_slices_of_a_deeper_layer_lie_side_by_side(self, model: VisionModel) -> None:
        name = "_blocks.1._expand_conv"
        own = weights(model, name)
        grid, facts = filters(model, layer=name, scaling="global", enlarge=1, slices=9, most=5)
        assert facts["filters"] == {"drawn": 5, "of": len(own)}
        low, high = own[:5].min(), own[:5].max()
        sheet = grid.images * (high - low) + low
        for at in range(9):
            place = sheet[:, :, 2 * (at // 3), 2 * (at % 3)]
            assert torch.allclose(place, own[:5, at, 0, 0, None].expand(-1, 3), atol=1e-6)

    @pytest.mark.parametrize("scaling", ["filter", "global", "symmetric"])
    @pytest.mark.parametrize(("name", "slices"), [("_conv_stem", 3), ("_blocks.1._expand_conv", 9)])
    def test_the_arrays_are_the_weights(
        self, model: VisionModel, name: str, slices: int, scaling: str
    ) -> None:
        given: dict[str, object] = {"layer": name, "scaling": scaling, "most": 5}
        given |= {"slices": slices, "enlarge": 3}
        with np.load(io.BytesIO(run("filters", {}, given, model=model).npz())) as arrays:
            found = arrays["filters"]
        assert found.dtype == np.float32
        own = weights(model, name)
        assert np.array_equal(found, own[:5, :slices].numpy())
        grid, _ = filters(model, **given)
        assert not np.shares_memory(grid.arrays()["filters"], own.numpy())

    def test_a_layer_without_filters_is_refused(self, model: VisionModel) -> None:
        with pytest.raises(InvalidParameter, match="no convolution") as caught:
            filters(model, layer="_bn0")
        assert caught.value.pointer == "/params/layer"
        with pytest.raises(UnknownName):
            filters(model, layer="conv99")


class TestActivations:
    def test_the_map_is_captums(self, model: VisionModel, photo: Image) -> None:
        image, layer = photo.resize(224, 224), "_blocks.5"
        wanted = LayerActivation(model.logits, model.layer(layer)).attribute(image.pixels[None])[0]
        result = run("activations", {"image": image}, {"layer": layer, "channel": 7}, model=model)
        assert isinstance(result.principal, Heatmap)
        enlarged = torch.nn.functional.interpolate(
            wanted[None, 7:8].detach(), size=(224, 224), mode="bilinear"
        )[0, 0]
        assert torch.allclose(result.principal.values, enlarged, atol=1e-5)

    @pytest.mark.parametrize("rank", ["maximum", "mean"])
    def test_channels_are_ranked(self, model: VisionModel, photo: Image, rank: str) -> None:
        image, layer = photo.resize(224, 224), "_blocks.5"
        with model.capture([layer]) as features:
            own = features(image.pixels[None])[layer][0].detach().numpy()
        strength = own.max((1, 2)) if rank == "maximum" else own.mean((1, 2))
        result = run("activations", {"image": image}, {"layer": layer, "rank": rank}, model=model)
        table = next(a for a in result.artifacts if isinstance(a, Table))
        assert [row["channel"] for row in table.rows] == np.argsort(-strength).tolist()[:128]
        assert table.rows[0][rank] == pytest.approx(strength.max(), abs=1e-5)
        assert result.facts["channel"] == int(strength.argmax())

    def test_the_sheet_shows_the_maps_of_the_ranking(
        self, model: VisionModel, photo: Image
    ) -> None:
        image, layer = photo.resize(224, 224), "_blocks.12"
        with model.capture([layer]) as features:
            own = features(image.pixels[None])[layer][0].detach()
        side = own.shape[-1]
        result = run(
            "activations", {"image": image},
            {"layer": layer, "most": 4, "size": 2 * side, "scaling": "layer"}, model=model,
        )  # fmt: skip
        grid = next(a for a in result.artifacts if isinstance(a, Grid))
        shown = own[[int(caption) for caption in grid.captions]]
        wanted = (shown - shown.min()) / (shown.max() - shown.min())
        assert torch.allclose(grid.images[:, 0, ::2, ::2], wanted, atol=1e-5)

    @pytest.mark.parametrize("scaling", ["channel", "layer"])
    def test_the_arrays_are_what_the_layer_made(
        self, model: VisionModel, photo: Image, scaling: str
    ) -> None:
        image, layer = photo.resize(224, 224), "_blocks.5"
        made: list[torch.Tensor] = []
        handle = model.layer(layer).register_forward_hook(lambda m, i, o: made.append(o))
        with torch.inference_mode():
            model.logits(image.pixels[None])
        handle.remove()
        given = {"layer": layer, "scaling": scaling, "most": 9, "rank": "mean"}
        result = run("activations", {"image": image}, given, model=model)
        with np.load(io.BytesIO(result.npz())) as arrays:
            maps = arrays["maps"]
        grid = next(a for a in result.artifacts if isinstance(a, Grid))
        wanted = made[0][0, [int(caption) for caption in grid.captions]].numpy()
        assert maps.dtype == np.float32
        assert maps.shape == wanted.shape
        assert np.abs(maps - wanted).max() <= 1e-6

    def test_what_is_not_there_is_refused(self, model: VisionModel, photo: Image) -> None:
        for params, pointer in (
            ({"channel": 100_000}, "/params/channel"),
            ({"layer": "_fc"}, "/params/layer"),
        ):
            with pytest.raises(InvalidParameter) as caught:
                run("activations", {"image": photo}, params, model=model)
            assert caught.value.pointer == pointer


class TestLargeSheets:
    @pytest.mark.parametrize(
        ("name", "params", "pointer"),
        [
            (
                "filters",
                {"layer": "_conv_head", "most": 1024, "slices": 256, "enlarge": 32},
                "/params/enlarge",
            ),
            ("activations", {"layer": "_conv_head", "most": 1024, "size": 224}, "/params/size"),
        ],
    )
    def test_one_that_is_too_large_is_refused(
        self, name: str, params: dict[str, object], pointer: str, model: VisionModel, photo: Image
    ) -> None:
        images = {"image": photo} if name == "activations" else {}
        with pytest.raises(InvalidParameter, match=r"megapixels .* at most 32 .* lower") as caught:
            run(name, images, params, model=model)
        assert caught.value.pointer == pointer

    def test_the_size_is_that_of_what_is_drawn(
        self, model: VisionModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for params in ({"enlarge": 3}, {"layer": "_conv_head", "most": 5, "slices": 7}):
            sheet = filters(model, **params)[0].sheet()
            pixels = sheet.height * sheet.width
            monkeypatch.setattr(sheets, "LARGEST_SHEET", pixels)
            filters(model, **params)
            monkeypatch.setattr(sheets, "LARGEST_SHEET", pixels - 1)
            with pytest.raises(InvalidParameter):
                filters(model, **params)
            monkeypatch.undo()

    @pytest.mark.parametrize("name", RECORDS)
    def test_every_layer_of_every_network_is_drawn_by_the_other_defaults(self, name: str) -> None:
        params = FiltersParams()
        for module in sketched(RECORDS[name]).network.modules():
            if isinstance(module, nn.Conv2d):
                check_size(module, params)
