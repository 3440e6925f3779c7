"""A network is looked into without being changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from lantern.errors import InvalidParameter, UnknownName
from lantern.image import Image
from lantern.vision_model import LOGITS, VisionModel


class Boom(Exception):
    pass


class Twice(nn.Module):
    """Uses one convolution and one ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.parts = nn.ModuleList([nn.Flatten(), nn.Linear(3 * 8 * 8, 4)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(self.relu(self.conv(x))))
        for part in self.parts:
            out = part(out)
        return out


@pytest.fixture
def twice() -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Twice()
    return VisionModel(
        "twice", network, mean=(0, 0, 0), std=(1, 1, 1), input_size=8, resize_size=8, labels=()
    )


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@contextmanager
def calls(model: VisionModel) -> Iterator[list[str]]:
    """List the layers that run."""
    seen: list[str] = []

    def note(name: str) -> None:
        def hook(module: nn.Module, inputs: object) -> None:
            seen.append(name)

        handles.append(model.layer(name).register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name in ("conv1", "relu1", "pool", "conv2", "relu2", "fc"):
        note(name)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def hooks(model: VisionModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


# --- Preprocessing -----------------------------------------------------------------------------


def test_logits_normalise_inside(small_model: VisionModel, pixels: Tensor) -> None:
    mean, std = torch.tensor((0.5, 0.4, 0.3)), torch.tensor((0.2, 0.25, 0.3))
    normalised = ((pixels.permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2)
    assert torch.allclose(small_model.logits(pixels), small_model.network(normalised), atol=1e-6)


def test_the_network_is_frozen(small_model: VisionModel) -> None:
    assert not any(module.training for module in small_model.network.modules())
    assert not any(parameter.requires_grad for parameter in small_model.network.parameters())
    assert small_model.device == torch.device("cpu")
    assert small_model.to("cpu") is small_model


def test_squash_shows_the_whole_picture(small_model: VisionModel, picture: Image) -> None:
    framing = small_model.frame(picture, "squash")
    assert torch.equal(framing.pixels[0], picture.resize(32, 32).pixels)
    assert framing.box == (0, 0, 24, 32)
    ones = framing.to_picture(torch.ones(4, 4))
    assert torch.allclose(ones, torch.ones(24, 32))


def test_crop_shows_the_centre(small_model: VisionModel) -> None:
    wide = Image(torch.rand(3, 72, 144, generator=torch.Generator().manual_seed(0)))
    framing = small_model.frame(wide, "crop")
    scaled = wide.resize(36, 72).pixels
    assert torch.equal(framing.pixels[0], scaled[:, 2:34, 20:52])
    assert framing.box == (4, 40, 64, 64)
    seen = framing.to_picture(torch.ones(4, 4))
    assert seen.shape == (72, 144)
    assert seen.sum() == 64 * 64
    assert seen[4:68, 40:104].all()


def test_crop_stays_inside_small_pictures(small_model: VisionModel) -> None:
    for height, width in ((16, 128), (17, 16), (33, 35)):
        framing = small_model.frame(Image(torch.rand(3, height, width)), "crop")
        top, left, tall, wide = framing.box
        assert framing.pixels.shape == (1, 3, 32, 32)
        assert min(top, left) >= 0
        assert top + tall <= height
        assert left + wide <= width
        assert framing.to_picture(torch.rand(5, 5)).shape == (height, width)


def test_a_map_of_the_views_size_is_laid_back_unchanged(small_model: VisionModel) -> None:
    framing = small_model.frame(Image(torch.rand(3, 32, 32)))
    field = torch.rand(32, 32)
    assert torch.allclose(framing.to_picture(field), field, atol=1e-6)


def test_pictures_are_shrunk_as_far_as_networks_can_see(small_model: VisionModel) -> None:
    wide = Image(torch.rand(3, 40, 200))
    assert small_model.fit(wide, 200) is wide
    fitted = small_model.fit(wide, 160)
    assert (fitted.height, fitted.width) == (32, 160)
    with pytest.raises(InvalidParameter, match="would be 150x30 px") as caught:
        small_model.fit(wide, 150, pointer="/params/guide_size")
    assert caught.value.pointer == "/params/guide_size"


# --- Names -------------------------------------------------------------------------------------


def test_layers_are_found_by_their_dotted_names(model: VisionModel) -> None:
    assert model.layer("_blocks.8") is dict(model.network.named_modules())["_blocks.8"]
    with pytest.raises(UnknownName, match="did you mean _conv_head") as caught:
        model.layer("conv_head")
    assert caught.value.code == "unknown-layer"
    assert caught.value.pointer == "/params/layer"


def test_classes_have_labels_or_numbers(small_model: VisionModel) -> None:
    assert small_model.label(2) == "cat"
    assert small_model.label(6) == "6"


def test_only_classes_of_the_network_are_taken(small_model: VisionModel) -> None:
    assert [small_model.check_class(i, 7) for i in (0, 6)] == [0, 6]
    for wrong in (-1, 7):
        with pytest.raises(InvalidParameter, match="the classes 0 to 6") as caught:
            small_model.check_class(wrong, 7)
        assert caught.value.pointer == "/params/target"


# --- Capture -----------------------------------------------------------------------------------


def test_capture_gives_what_the_layers_put_out(small_model: VisionModel, pixels: Tensor) -> None:
    network = small_model.network
    assert isinstance(network, nn.Sequential)
    normalised = (pixels - small_model._mean) / small_model._std
    with small_model.capture(["pool", "conv2"]) as features:
        seen = features(pixels)
    assert seen.keys() == {"pool", "conv2"}
    assert torch.equal(seen["pool"], network[:3](normalised))
    assert torch.equal(seen["conv2"], network[:4](normalised))


def test_capture_runs_no_further_than_it_must(small_model: VisionModel, pixels: Tensor) -> None:
    with calls(small_model) as seen, small_model.capture(["relu1", "pool"]) as features:
        features(pixels)
    assert seen == ["conv1", "relu1", "pool"]
    with calls(small_model) as seen, small_model.capture(["pool", LOGITS]) as features:
        features(pixels)
    assert seen[-1] == "fc"


def test_captures_within_one_another_do_not_meet(small_model: VisionModel, pixels: Tensor) -> None:
    with small_model.capture(["relu1"]) as shallow, small_model.capture(["conv2"]) as deep:
        first = shallow(pixels)
        assert deep(pixels).keys() == {"conv2"}
        assert torch.equal(shallow(pixels)["relu1"], first["relu1"])


def test_capture_starts_anew_at_every_call(small_model: VisionModel, pixels: Tensor) -> None:
    with small_model.capture(["conv2"]) as features:
        first, second = features(pixels), features(1 - pixels)
        assert not torch.equal(first["conv2"], second["conv2"])
        assert torch.equal(features(pixels)["conv2"], first["conv2"])


def test_capture_lets_gradients_through(small_model: VisionModel, pixels: Tensor) -> None:
    pixels.requires_grad_()
    with small_model.capture(["conv2"]) as features:
        (gradient,) = torch.autograd.grad(features(pixels)["conv2"].square().sum(), pixels)
    assert gradient.abs().sum() > 0


def test_capture_takes_the_first_output_of_a_reused_layer(twice: VisionModel) -> None:
    x = torch.rand(1, 3, 8, 8)
    wanted = twice.layer("conv")(x)
    with twice.capture(["conv"]) as features:
        assert torch.equal(features(x)["conv"], wanted)


def test_capture_refuses_names_that_give_nothing(twice: VisionModel) -> None:
    with pytest.raises(UnknownName), twice.capture(["conv", "nowhere"]):
        pass
    with (
        twice.capture(["parts"]) as features,
        pytest.raises(InvalidParameter, match="parts only holds other layers") as caught,
    ):
        features(torch.rand(1, 3, 8, 8))
    assert caught.value.pointer == "/params/layer"
    assert hooks(twice) == 0


def test_capture_leaves_no_hook_behind(small_model: VisionModel, pixels: Tensor) -> None:
    with small_model.capture(["conv1", "fc"]) as features:
        assert hooks(small_model) == 2
        features(pixels)
    assert hooks(small_model) == 0
    with pytest.raises(Boom), small_model.capture(["conv1", "fc"]):
        raise Boom
    with pytest.raises(RuntimeError), small_model.capture(["conv1"]) as features:
        features(torch.rand(1, 5, 32, 32))
    assert hooks(small_model) == 0


# --- Tail --------------------------------------------------------------------------------------


def test_tail_gives_the_activation_and_the_true_logits(
    small_model: VisionModel, pixels: Tensor
) -> None:
    with small_model.capture(["conv1"]) as features:
        wanted = features(pixels)["conv1"].clone()
    with small_model.tail("conv1") as tail:
        activation, logits = tail(pixels)
    # relu1 works in place and must not reach the activation
    assert torch.equal(activation, wanted)
    assert torch.allclose(logits, small_model.logits(pixels), atol=1e-6)


def test_gradients_of_a_tail_begin_at_the_layer(small_model: VisionModel, pixels: Tensor) -> None:
    pixels.requires_grad_()
    with small_model.tail("conv2") as tail, torch.no_grad():
        activation, logits = tail(pixels)
    assert activation.is_leaf
    (gradient,) = torch.autograd.grad(logits[0, 0], activation)
    # relu, mean over 16 x 16 positions, linear: by hand
    fc = small_model.layer("fc")
    assert isinstance(fc, nn.Linear)
    by_hand = fc.weight[0].view(1, -1, 1, 1) / 256 * (activation[:1] > 0)
    assert torch.allclose(gradient[:1], by_hand, atol=1e-7)
    assert not gradient[1].any()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(tail_sum(small_model, pixels), pixels)


def tail_sum(model: VisionModel, pixels: Tensor) -> Tensor:
    with model.tail("conv2") as tail:
        return tail(pixels)[1].sum()


def test_a_layer_used_twice_is_cut_where_it_is_used_first(twice: VisionModel) -> None:
    x = torch.rand(1, 3, 8, 8)
    with twice.tail("conv") as tail:
        activation, logits = tail(x)
    assert torch.equal(activation, twice.layer("conv")(x))
    assert torch.allclose(logits, twice.logits(x))


def test_tail_refuses_names_that_give_nothing(twice: VisionModel) -> None:
    with pytest.raises(UnknownName), twice.tail("nowhere"):
        pass
    with twice.tail("parts") as tail, pytest.raises(InvalidParameter, match="parts"):
        tail(torch.rand(1, 3, 8, 8))


def test_tail_leaves_no_hook_behind(small_model: VisionModel, pixels: Tensor) -> None:
    with small_model.tail("conv2") as tail:
        assert hooks(small_model) == 1
        tail(pixels)
    with pytest.raises(Boom), small_model.tail("conv2"):
        raise Boom
    assert hooks(small_model) == 0


def test_the_stride_of_a_layer_is_what_a_position_stands_for(
    small_model: VisionModel, model: VisionModel
) -> None:
    strides = {name: small_model.stride(name) for name in ("relu1", "pool", "gap", "fc")}
    assert strides == {"relu1": 1, "pool": 2, "gap": 32, "fc": 32}
    assert [model.stride(f"_blocks.{n}") for n in (0, 4, 15)] == [2, 8, 32]


def test_what_is_written_over_in_place_is_given_as_it_was(small_model: VisionModel) -> None:
    """`relu1` works in place: beside a deeper layer `conv1` must be what it is alone."""
    pixels = torch.rand(2, 3, 32, 32)
    with small_model.capture(["conv1"]) as alone, small_model.capture(["conv1", "fc"]) as both:
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                assert torch.equal(alone(pixels)["conv1"], both(pixels)["conv1"])
    with small_model.capture(["conv1", "relu1", "conv2"]) as look:
        leaf = pixels.clone().requires_grad_()
        seen = look(leaf)
        assert (seen["conv1"] < 0).any()
        assert torch.equal(seen["conv1"].relu(), seen["relu1"])
        seen["conv1"].sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None


def test_a_layer_without_positions_is_told_from_one_with(small_model: VisionModel) -> None:
    small_model.check_positions("conv2")
    for name in ("fc", "logits"):
        with pytest.raises(InvalidParameter, match="no positions") as caught:
            small_model.check_positions(name, pointer="/params/style_layers")
        assert caught.value.pointer == "/params/style_layers"


def test_a_deep_copy_is_a_network_of_its_own(small_model: VisionModel) -> None:
    holder = nn.Module()
    holder.network, holder.model = small_model.network, [small_model]  # type: ignore[assignment]
    twin = copy.deepcopy(holder)
    (model,) = cast(list[VisionModel], twin.model)
    assert model.network is twin.network
    assert model.network is not small_model.network
    pixels = small_model.noise(1)
    assert torch.equal(model.logits(pixels), small_model.logits(pixels))
