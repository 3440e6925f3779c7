"""Maps that explain a class: what they must get right on networks whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lantern.artifact import Heatmap, Picture
from lantern.errors import InvalidParameter, LanternError
from lantern.image import Image
from lantern.patches import coarse_to_fine, patches, spread
from lantern.run import run
from lantern.techniques.rise import draw_masks
from lantern.vision_model import LOGITS, VisionModel

SIDE, CLASSES = 32, 3
# rows and columns that the network of these tests looks at
SEEN = (slice(8, 16), slice(20, 28))


class Looker(nn.Module):
    """Gives class 1 the mean brightness of one square, and class 2 the opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.pass_on = nn.Conv2d(3, 3, 1, bias=False)
        self.pass_on.weight.data = torch.eye(3)[:, :, None, None]
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        seen = self.relu(self.pass_on(x))[:, :, *SEEN].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 4 * seen, -4 * seen], 1)


@pytest.fixture
def looker() -> VisionModel:
    return VisionModel(
        "looker", Looker(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=SIDE,
        resize_size=SIDE, labels=("none", "bright", "dark"), cam_layer="pass_on",
    )  # fmt: skip


@pytest.fixture
def bright() -> Image:
    chance = torch.Generator().manual_seed(3)
    return Image(0.4 + 0.6 * torch.rand(3, SIDE, SIDE, generator=chance))


def heatmap(name: str, model: VisionModel, image: Image, **params: object) -> Tensor:
    given = {"evidence": 0, "target": 1, **params}
    artifact = run(name, {"image": image}, given, model=model).principal
    assert isinstance(artifact, Heatmap)
    return artifact.values


def share_inside(values: Tensor) -> float:
    return float(values[SEEN].clamp_min(0).sum() / values.clamp_min(0).sum())


EXACT: dict[str, dict[str, object]] = {
    "saliency": {},
    "integrated-gradients": {"baseline": "black"},
    "guided-backprop": {},
    "occlusion": {"patch": 1, "stride": 1, "fill": "black"},
}


@pytest.mark.parametrize("name", EXACT)
def test_only_what_is_looked_at_counts(name: str, looker: VisionModel, bright: Image) -> None:
    values = heatmap(name, looker, bright, **EXACT[name])
    outside = values.clone()
    outside[SEEN] = 0
    assert float(outside.abs().max()) < 1e-6
    assert float(values[SEEN].min()) > 0


def test_smooth_grad_sees_the_same(looker: VisionModel, bright: Image) -> None:
    values = heatmap("saliency", looker, bright, method="smooth-grad", noise=0.05)
    assert share_inside(values) > 0.999


@pytest.mark.parametrize(
    "method", ["grad-cam", "hires-cam", "layer-cam", "score-cam", "guided-grad-cam"]
)
def test_cams_are_lower_or_positive_where_nothing_is_looked_at(
    method: str, looker: VisionModel, bright: Image
) -> None:
    values = heatmap("grad-cam", looker, bright, method=method)
    if method in ("hires-cam", "layer-cam", "guided-grad-cam"):
        assert share_inside(values) > 0.999
    assert float(values.min()) >= 0


class TestOcclusion:
    def test_patches_reach_to_the_end(self) -> None:
        assert patches(10, 4, 4)[-1] == (8, 10, 8, 10)
        assert len(patches(224, 32, 16)) == 13**2
        assert patches(8, 8, 3) == [(0, 8, 0, 8)]

    def test_overlaps_are_means(self) -> None:
        chance = np.random.default_rng(0)
        boxes = patches(20, 7, 3)
        drops = torch.from_numpy(chance.random(len(boxes)))
        total, count = np.zeros((20, 20)), np.zeros((20, 20))
        for drop, (top, bottom, left, right) in zip(drops.tolist(), boxes, strict=True):
            total[top:bottom, left:right] += drop
            count[top:bottom, left:right] += 1
        assert np.allclose(spread(drops, boxes, 20).numpy(), total / np.maximum(count, 1))

    def test_pixels_between_patches_have_no_value(self) -> None:
        found = spread(torch.ones(4), patches(10, 2, 8), 10)
        assert float(found[5].abs().max()) == 0

    @pytest.mark.parametrize("size", [4, 8, 12, 16, 20, 24])
    @pytest.mark.parametrize("share", [0.0, 1e-9, 0.3, 1.0])
    def test_coarse_to_fine_takes_what_is_near_something(self, size: int, share: float) -> None:
        boxes = patches(size, 4, 4)
        side = math.isqrt(len(boxes))
        # every patch does something, the more the nearer it is to the middle
        middle = (side - 1) / 2
        true = {
            box: 1 / (1 + math.dist(divmod(at, side), (middle, middle))) ** 4
            for at, box in enumerate(boxes)
        }
        asked: list[tuple[int, int, int, int]] = []

        def fall(some: list[tuple[int, int, int, int]]) -> Tensor:
            asked.extend(some)
            return torch.tensor([true[box] for box in some])

        falls, taken = coarse_to_fine(fall, boxes, share)
        assert taken == len(asked) == len(set(asked))
        for box, value in zip(boxes, falls.tolist(), strict=True):
            if box in asked:
                assert value == pytest.approx(true[box])
        if share < 0.1:
            assert taken == len(boxes)
        elif side > 4:
            assert taken < len(boxes)
        assert min(true.values()) <= float(falls.min()) + 1e-6
        assert float(falls.max()) <= max(true.values()) + 1e-6

    def test_coarse_to_fine_looks_closely_at_what_counts(
        self, looker: VisionModel, bright: Image
    ) -> None:
        given = {"patch": 2, "stride": 2, "fill": "black"}
        whole = heatmap("occlusion", looker, bright, **given)
        result = run(
            "occlusion", {"image": bright}, {"target": 1, "coarse": 0.2, **given}, model=looker
        )
        assert isinstance(result.principal, Heatmap)
        assert torch.allclose(result.principal.values[SEEN], whole[SEEN], atol=1e-6)
        assert result.facts["patches"] == 16**2
        assert 64 < result.facts["taken"] < 110

    def test_a_neuron_can_be_watched(self, looker: VisionModel, bright: Image) -> None:
        pixels = bright.pixels.clone()
        pixels[0, 3, 5] = 1.0
        pixels[0] = pixels[0].clamp_max(0.8)
        pixels[0, 3, 5] = 1.0
        values = heatmap(
            "occlusion", looker, Image(pixels), layer="pass_on", channel=0, patch=1, stride=1,
            fill="black",
        )  # fmt: skip
        # the brightest pixel of the channel falls only where it is covered, and all the way
        assert float(values[3, 5]) == 1.0
        values[3, 5] = 0
        assert float(values.abs().max()) < 1e-6

    @pytest.mark.parametrize(
        ("params", "pointer"),
        [
            ({"patch": 40}, "/params/patch"),
            ({"layer": "pass_on", "channel": 3}, "/params/channel"),
            ({"layer": "none"}, "/params/layer"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, looker: VisionModel, bright: Image, params: dict[str, object], pointer: str
    ) -> None:
        with pytest.raises(LanternError) as caught:
            heatmap("occlusion", looker, bright, **params)
        assert caught.value.pointer == pointer

    def test_more_patches_than_can_be_are_refused(self, model: VisionModel, photo: Image) -> None:
        with pytest.raises(InvalidParameter, match="stride") as caught:
            heatmap("occlusion", model, photo, patch=4, stride=1)
        assert caught.value.pointer == "/params/stride"


class TestRise:
    def test_masks_are_smooth_and_half_open(self) -> None:
        masks = draw_masks(200, 7, 64, torch.Generator().manual_seed(0))
        assert masks.shape == (200, 64, 64)
        assert float(masks.min()) >= 0
        assert float(masks.max()) <= 1
        assert float(masks.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(masks.diff(dim=2).abs().max()) < 0.2

    def test_the_place_that_is_looked_at_stands_out(
        self, looker: VisionModel, bright: Image
    ) -> None:
        values = heatmap("rise", looker, bright, masks=2000, cells=8, error=0.01)
        inside = values[SEEN].mean()
        outside = values.clone()
        outside[4:20, 16:32] = 0
        assert float(inside) > 5 * float(outside.abs().mean())

    def test_it_ends_once_it_is_sure(self, looker: VisionModel, bright: Image) -> None:
        facts = [
            run(
                "rise", {"image": bright},
                {"evidence": 0, "masks": 1000, "error": error}, model=looker,
            ).facts
            for error in (0.2, 1e-6)
        ]  # fmt: skip
        assert facts[0]["masks"] < facts[1]["masks"] == 1000
        assert facts[0]["standard_error"] <= 0.2
        assert facts[1]["standard_error"] < facts[0]["standard_error"]


def test_the_steps_of_a_neurons_map_are_all_made(model: VisionModel, photo: Image) -> None:
    told: list[tuple[int, int]] = []
    params = {"layer": "_blocks.8", "patch": 112, "stride": 112, "sanity": True}
    found = run(
        "occlusion", {"image": photo}, params, model=model,
        progress=lambda step: told.append((step.done, step.total)),
    )  # fmt: skip
    assert "insertion" not in dict(found.facts)
    done, total = told[-1]
    assert done == total > 1


def test_a_neuron_is_what_guided_backprop_goes_back_from(model: VisionModel, photo: Image) -> None:
    layer = "_blocks.5"
    image = photo.resize(224, 224)
    result = run(
        "guided-backprop", {"image": image},
        {"layer": layer, "channel": 3, "rule": "vanilla", "evidence": 0}, model=model,
    )  # fmt: skip
    leaf = image.pixels[None].clone().requires_grad_()
    with model.capture([layer]) as features:
        channel = features(leaf)[layer][0, 3]
    (wanted,) = torch.autograd.grad(channel.max(), leaf)
    assert isinstance(result.principal, Heatmap)
    assert torch.allclose(result.principal.values, wanted[0].abs().amax(0), atol=1e-6)
    neuron = result.facts["neuron"]
    assert neuron["value"] == pytest.approx(float(channel.detach().max()), abs=1e-5)
    assert neuron["index"][0] == 3
    assert len(neuron["index"]) == 3
    # far from the neuron nothing comes back: its field is smaller than the picture
    assert math.isclose(float(result.principal.values.min()), 0.0, abs_tol=1e-12)


@pytest.mark.parametrize("layer", [None, "conv2"])
def test_what_came_back_is_had_as_numbers(layer: str | None, small_model: VisionModel) -> None:
    image = Image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)))
    given = {"layer": layer, "target": 1, "rule": "vanilla", "evidence": 0}
    result = run("guided-backprop", {"image": image}, given, model=small_model)
    leaf = image.pixels[None].clone().requires_grad_()
    with small_model.capture(["conv2", LOGITS]) as features:
        found = features(leaf)
    score = found[LOGITS][0, 1] if layer is None else found[layer].max()
    (wanted,) = torch.autograd.grad(score, leaf)
    drawn = result.artifacts[1]
    assert isinstance(drawn, Picture)
    got = torch.from_numpy(drawn.arrays()["gradient"])
    assert torch.allclose(got, wanted[0], atol=1e-6)
    assert float(got.min()) < 0
    # the picture has them around grey
    assert torch.allclose(drawn.image.pixels, got / got.abs().max() / 2 + 0.5, atol=1e-6)
    # also of a transparent picture, which the network sees over white
    clear = Image(image.pixels, alpha=torch.full((32, 32), 0.4))
    of_clear = run("guided-backprop", {"image": clear}, given, model=small_model).artifacts[1]
    assert isinstance(of_clear, Picture)
    assert torch.allclose(of_clear.image.opaque().pixels, drawn.image.pixels, atol=1e-5)
    assert result.facts["relus"] == 2


@pytest.mark.parametrize(
    ("name", "params", "pointer"),
    [
        ("guided-backprop", {}, "/params/rule"),
        ("grad-cam", {"method": "guided-grad-cam"}, "/params/method"),
    ],
)
def test_a_rule_needs_relus(name: str, params: dict[str, object], pointer: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    smooth = VisionModel(
        "smooth", network, mean=(0.5,) * 3, std=(0.2,) * 3, input_size=SIDE, resize_size=SIDE,
        labels=(), cam_layer="0",
    )  # fmt: skip
    image = Image(torch.full((3, SIDE, SIDE), 0.5))
    with pytest.raises(InvalidParameter, match="no ReLU") as caught:
        run(name, {"image": image}, params, model=smooth)
    assert caught.value.pointer == pointer
    assert ("vanilla" in caught.value.detail) == (name == "guided-backprop")


# of each technique that can explain a neuron
OWN: dict[str, dict[str, object]] = {
    "guided-backprop": {"rule": "vanilla"},
    "occlusion": {"patch": 8, "stride": 8},
}


class TestNeurons:
    @pytest.mark.parametrize("name", OWN)
    @pytest.mark.parametrize(
        ("params", "pointer", "said"),
        [
            ({"channel": 3}, "/params/channel", "name the layer"),
            ({"row": 1, "column": 2}, "/params/row", "name the layer"),
            ({"layer": "conv2", "row": 1}, "/params/column", "both"),
            ({"layer": "conv2", "column": 1}, "/params/row", "both"),
            ({"layer": "conv2", "channel": 12}, "/params/channel", "0 to 11"),
            ({"layer": "conv2", "row": 16, "column": 2}, "/params/row", "0 to 15"),
            ({"layer": "conv2", "row": 2, "column": 16}, "/params/column", "0 to 15"),
            ({"layer": "fc", "row": 0, "column": 0}, "/params/row", "no rows"),
        ],
    )
    def test_one_that_is_not_there_is_refused(
        self,
        name: str,
        params: dict[str, object],
        pointer: str,
        said: str,
        small_model: VisionModel,
        photo: Image,
    ) -> None:
        with pytest.raises(InvalidParameter, match=said) as caught:
            run(name, {"image": photo}, OWN[name] | params, model=small_model)
        assert caught.value.pointer == pointer

    def test_a_place_may_be_chosen(self, small_model: VisionModel) -> None:
        image = Image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)))
        leaf = image.pixels[None].clone().requires_grad_()
        with small_model.capture(["conv2"]) as features:
            maps = features(leaf)["conv2"][0]
        place = {"layer": "conv2", "row": 4, "column": 9}
        strongest = int(maps[:, 4, 9].argmax())
        for chosen, channel in ({"channel": 5}, 5), ({}, strongest):
            results = {
                name: run(name, {"image": image}, own | place | chosen, model=small_model)
                for name, own in OWN.items()
            }
            for result in results.values():
                assert result.facts["neuron"]["index"] == [channel, 4, 9]
                value = float(maps.detach()[channel, 4, 9])
                assert result.facts["neuron"]["value"] == pytest.approx(value, abs=1e-5)
            (wanted,) = torch.autograd.grad(maps[channel, 4, 9], leaf, retain_graph=True)
            back = results["guided-backprop"].principal
            assert isinstance(back, Heatmap)
            assert torch.allclose(back.values, wanted[0].abs().amax(0), atol=1e-6)
            # what it does not look at can be covered without a change
            covered = results["occlusion"].principal
            assert isinstance(covered, Heatmap)
            assert float(covered.values[:, 24:].abs().max()) < 1e-6
            assert float(covered.values[8:16, 16:24].abs().min()) > 1e-3

    @pytest.mark.parametrize("name", OWN)
    def test_curves_of_the_class_are_left_out(
        self, name: str, looker: VisionModel, bright: Image
    ) -> None:
        given = OWN[name] | {"layer": "pass_on", "channel": 1}
        facts = run(name, {"image": bright}, given, model=looker).facts
        assert facts["neuron"]["layer"] == "pass_on"
        index, value = facts["neuron"]["index"], facts["neuron"]["value"]
        assert index[0] == 1
        assert value == float(bright.pixels[1].max()) == float(bright.pixels[*index])
        assert any("neuron" in warning for warning in facts["warnings"])
        assert not {"insertion", "deletion"} & facts.keys()

    @pytest.mark.parametrize("name", OWN)
    def test_curves_of_a_class_are_there(
        self, name: str, looker: VisionModel, bright: Image
    ) -> None:
        facts = run(name, {"image": bright}, OWN[name], model=looker).facts
        assert "neuron" not in facts
        assert {"insertion", "deletion"} <= facts.keys()
        assert not any("neuron" in warning for warning in facts.get("warnings", ()))

    def test_a_layer_may_have_no_positions(self, small_model: VisionModel, photo: Image) -> None:
        # those of the last layer are the classes
        for name, params in OWN.items():
            of_class = {"score": "logit"} if name == "occlusion" else {}
            wanted = heatmap(name, small_model, photo, **params, **of_class, target=2)
            got = heatmap(name, small_model, photo, **params, layer="fc", channel=2)
            assert float((got - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_a_map_that_says_the_same_everywhere_is_called_so(
    fit: str, looker: VisionModel, bright: Image
) -> None:
    wide = bright.resize(SIDE, 2 * SIDE)
    for patch, is_same in ((SIDE, True), (SIDE // 2, False)):
        params = {"fit": fit, "target": 1, "patch": patch, "stride": patch}
        result = run("occlusion", {"image": wide}, params, model=looker)
        assert isinstance(result.principal, Heatmap)
        assert float(result.principal.values.abs().max()) > 0
        assert result.facts["degenerate"] == is_same


@pytest.mark.parametrize("method", ["grad-cam", "guided-grad-cam"])
def test_the_signed_map_is_that_without_relu(method: str, model: VisionModel, photo: Image) -> None:
    given = {"method": method, "target": 1, "evidence": 0}
    both = run("grad-cam", {"image": photo}, given, model=model)
    alone = run("grad-cam", {"image": photo}, given | {"relu": False}, model=model)
    assert [artifact.name for artifact in both.artifacts] == ["heatmap", "signed"]
    assert [artifact.name for artifact in alone.artifacts] == ["heatmap"]
    kept, signed = both.artifacts
    assert isinstance(kept, Heatmap)
    assert isinstance(signed, Heatmap)
    assert isinstance(alone.principal, Heatmap)
    assert torch.equal(signed.values, alone.principal.values)
    assert kept.bounds[0] >= 0 > signed.bounds[0]
    assert ("warnings" in both.facts) == (method == "guided-grad-cam")
