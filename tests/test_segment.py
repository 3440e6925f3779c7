"""An object is cut out where the map says it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lantern.artifact import Heatmap, Picture
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.run import run
from lantern.techniques.segment import MAYBE, NOT, SURE, SegmentParams, seed_labels
from lantern.vision_model import VisionModel


def blob(side: int = 160) -> tuple[Image, Tensor]:
    """Return a red disc on green noise, and where the disc is."""
    at = torch.arange(side) - side / 2 + 10
    disc = ((at[:, None].square() + at[None].square()).sqrt() < side / 4).float()
    chance = torch.Generator().manual_seed(5)
    ground = torch.tensor([0.15, 0.5, 0.25])[:, None, None]
    ground = ground + 0.15 * torch.rand(3, side, side, generator=chance)
    object_ = torch.tensor([0.85, 0.2, 0.2])[:, None, None]
    object_ = object_ + 0.1 * torch.rand(3, side, side, generator=chance)
    return Image((ground * (1 - disc) + object_ * disc).clamp(0, 1)), disc


class Redness(nn.Module):
    """Sees red."""

    def __init__(self) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 1, 5, padding=2, bias=True)
        self.red.weight.data = (
            torch.tensor([1.0, -1.0, -0.5])[None, :, None, None].expand(1, 3, 5, 5).clone() / 25
        )
        self.red.bias.data.fill_(-0.1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.red(x)).mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 40 * seen], 1)


class TestSegment:
    @pytest.fixture
    def red(self) -> VisionModel:
        return VisionModel(
            "red", Redness(), mean=(0.0,) * 3, std=(1.0,) * 3, input_size=64, resize_size=64,
            labels=("none", "red"), cam_layer="red",
        )  # fmt: skip

    @pytest.mark.parametrize("method", ["grad-cam", "saliency"])
    def test_the_object_is_cut_out(self, red: VisionModel, method: str) -> None:
        image, disc = blob()
        truth = Image(disc.expand(3, -1, -1).clone())
        result = run(
            "segment", {"image": image, "truth": truth},
            {"target": 1, "method": method, "evidence": 0}, model=red,
        )  # fmt: skip
        assert result.facts["iou"] >= 0.7
        cutout, mask = result.artifacts
        assert isinstance(cutout, Picture)
        assert isinstance(mask, Heatmap)
        assert cutout.image.alpha is not None
        assert torch.equal(cutout.image.alpha, mask.values)
        one, other = mask.values >= 0.5, disc >= 0.5
        assert float((one & other).sum() / (one | other).sum()) == pytest.approx(
            result.facts["iou"], abs=1e-4
        )
        assert result.facts["share"] == pytest.approx(float(mask.values.mean()), abs=1e-4)

    def test_a_picture_without_an_object_still_has_a_mask(self, red: VisionModel) -> None:
        flat = Image(torch.full((3, 80, 90), 0.5))
        result = run("segment", {"image": flat}, {"target": 1, "evidence": 0}, model=red)
        share = result.facts["share"]
        assert 0 < share < 1
        assert result.facts["degenerate"]
        assert any("middle" in warning for warning in result.facts["warnings"])

    @pytest.mark.parametrize("level", [0.0, 0.4])
    @pytest.mark.parametrize("tied", [0.31, 0.5, 0.97])
    def test_what_is_alike_is_told_the_same(self, tied: float, level: float) -> None:
        values = torch.rand(40, 60, generator=torch.Generator().manual_seed(1)) + level
        values[values < values.quantile(tied)] = level
        params = SegmentParams()
        labels = seed_labels(values, params)
        assert (labels[values == level] == NOT).all()
        assert float((labels == SURE).float().mean()) == pytest.approx(
            min(0.05, 1 - tied), abs=0.01
        )
        assert (labels == MAYBE).any() == (tied < 0.9)
        for axis in (0, 1):
            flipped = seed_labels(values.flip(axis), params)
            assert torch.equal(flipped, labels.flip(axis))

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
    def test_of_two_values_the_larger_one_is_the_object(self, share: float) -> None:
        values = (torch.rand(40, 60, generator=torch.Generator().manual_seed(1)) < share).float()
        labels = seed_labels(values, SegmentParams())
        assert (labels[values == 1] == SURE).all()
        assert (labels[values == 0] == NOT).all()

    @pytest.mark.parametrize(("background", "foreground"), [(0.9, 0.5), (0.6, 0.6)])
    def test_what_is_the_object_is_not_background_too(
        self, background: float, foreground: float, red: VisionModel
    ) -> None:
        params = {"background": background, "foreground": foreground}
        with pytest.raises(InvalidParameter, match="smaller one") as caught:
            run("segment", {"image": blob()[0]}, params, model=red)
        assert caught.value.pointer == "/params/background"
        assert str(background) in caught.value.detail
        assert str(foreground) in caught.value.detail

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (2, 1), (1, 40), (3, 3)])
    @pytest.mark.parametrize("method", ["grad-cam", "saliency"])
    def test_the_smallest_pictures_have_a_mask(
        self, size: tuple[int, int], method: str, red: VisionModel
    ) -> None:
        image = Image(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
        params = {"target": 1, "method": method, "evidence": 0}
        result = run("segment", {"image": image}, params, model=red)
        mask = result.artifacts[1]
        assert isinstance(mask, Heatmap)
        assert mask.values.shape == size
        assert bool(((mask.values == 0) | (mask.values == 1)).all())
        if size == (1, 1):
            assert any("GrabCut found nothing" in said for said in result.facts["warnings"])

    def test_only_one_piece_is_kept(self, model: VisionModel, photo: Image) -> None:
        from scipy import ndimage

        for largest in (True, False):
            mask = run(
                "segment", {"image": photo}, {"largest": largest, "evidence": 0}, model=model
            ).artifacts[1]
            assert isinstance(mask, Heatmap)
            _, pieces = ndimage.label(mask.values.numpy())
            assert pieces == 1 or not largest
