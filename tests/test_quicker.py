"""Quicker networks give the same numbers, and leave the plain ones alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from lantern import compiled as compilation
from lantern import samples, scoring
from lantern.folding import Twins, headless, joined, pads, pairs
from lantern.image import Image
from lantern.local_change import covered
from lantern.patches import patches
from lantern.records import RECORDS
from lantern.scoring import WORTH, compiled_scorer, scorer
from lantern.vision_model import VisionModel
from lantern.zoo import presented
from tests.compilers import MISFITS, misfit
from tests.transformers import tiny_swin


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(5))


def lively(network: nn.Module) -> nn.Module:
    """Give norms statistics that matter."""
    chance = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=chance)
            module.running_var.uniform_(0.5, 2, generator=chance)
            module.bias.data.normal_(generator=chance)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 20), ("densenet121", 59), ("squeezenet1-1", 0), ("swin-t", 0)]
)
def test_twins_of_all_kinds_of_networks_score_alike(name: str, count: int, pixels: Tensor) -> None:
    model = presented(RECORDS[name], lively(RECORDS[name].build()), "")
    assert len(pairs(model.network, model.prepared(pixels[:1]))) == count
    with torch.inference_mode():
        plain, quick = model.logits(pixels), model.quick().logits(pixels)
    assert (quick - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_layers_that_are_asked_for_are_as_they_were(model: VisionModel, pixels: Tensor) -> None:
    for layers in (
        ["_conv_head"], ["_blocks.2", "_blocks.4._expand_conv"], ["_bn1"],
        ["_blocks.2._depthwise_conv.static_padding", "_blocks.2"],
    ):  # fmt: skip
        with torch.inference_mode(), model.capture(layers) as plain:
            wanted = plain(pixels)
        with torch.inference_mode(), model.quick(layers).capture(layers) as quick:
            found = quick(pixels)
        for layer in layers:
            reach = wanted[layer].abs().max()
            assert (found[layer] - wanted[layer]).abs().max() <= 1e-5 * reach


def test_folding_changes_what_it_does_not_keep(model: VisionModel, pixels: Tensor) -> None:
    seen = []
    for each in (model, model.quick()):
        with torch.inference_mode(), each.capture(["_conv_head"]) as capture:
            seen.append(capture(pixels[:1])["_conv_head"])
    assert (seen[0] - seen[1]).abs().max() > 0.1 * seen[0].abs().max()


def test_the_plain_network_and_its_weights_stay(model: VisionModel, pixels: Tensor) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    quick = model.quick(["_conv_head"])
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.is_contiguous()
    norms = [m for m in quick.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1
    assert not any(parameter.requires_grad for parameter in quick.network.parameters())
    shared = {p.data_ptr() for p in model.network.parameters()}
    assert quick.network.get_parameter("_fc.weight").data_ptr() in shared


def test_a_norm_that_others_share_is_not_folded() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            passed: Tensor = self.norm(self.two(self.norm(self.one(x))))
            return passed.mean((2, 3))

    network = lively(Reused())
    assert pairs(network, torch.rand(1, 3, 8, 8)) == {}


def test_an_output_that_is_used_twice_is_not_folded() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            made = self.conv(x)
            joined: Tensor = made + self.norm(made)
            return joined.mean((2, 3))

    network = lively(Around())
    seen = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    twin = Twins(network, seen).twin(())
    assert isinstance(twin.get_submodule("norm"), nn.BatchNorm2d)
    torch.testing.assert_close(twin(seen), network(seen))


def test_pads_are_joined_where_both_sides_are_alike(model: VisionModel, pixels: Tensor) -> None:
    found = pads(model.network)
    twin = model.quick().network
    for name, conv in found.items():
        assert isinstance(twin.get_submodule(name), nn.Identity)
        assert model.network.get_submodule(conv).padding == (0, 0)
    # what is left belongs to strides of two, where one side is padded more
    left = [m.padding for m in twin.modules() if isinstance(m, nn.ZeroPad2d)]
    assert len(found) > len(left) > 0
    assert all(first != last for first, last, *_ in left)


class PadsTwice(nn.Conv2d):
    """Has a pad that seems to be all there is."""

    def __init__(self, pad: int = 1) -> None:
        super().__init__(3, 4, 3)
        self.pad = nn.ZeroPad2d(pad)

    def forward(self, input: Tensor) -> Tensor:  # its name in torch
        made: Tensor = super().forward(self.pad(self.pad(input)))
        return made


class NeverPads(PadsTwice):
    """Has one that it does not use."""

    def forward(self, input: Tensor) -> Tensor:  # its name in torch
        made: Tensor = nn.Conv2d.forward(self, input)
        return made


@pytest.mark.parametrize(
    ("conv", "side"), [(PadsTwice(), 10), (NeverPads(), 6)], ids=["twice", "never"]
)
@pytest.mark.parametrize("is_shaped", [True, False])
def test_pads_that_are_not_what_they_seem_are_left_alone(
    conv: nn.Module, side: int, *, is_shaped: bool
) -> None:
    # a wrong shape is told by the next layer, or by nothing but the numbers
    end = [nn.Flatten(), nn.Linear(4 * side**2, 5)] if is_shaped else [nn.AdaptiveAvgPool2d(1)]
    network = lively(nn.Sequential(conv, nn.BatchNorm2d(4), *end))
    seen = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert pads(network) == {"0.pad": "0"}
    twin = Twins(network, seen).twin(())
    assert isinstance(twin.get_submodule("0.pad"), nn.ZeroPad2d)
    assert isinstance(twin.get_submodule("1"), nn.Identity)  # the norm is folded all the same
    with torch.inference_mode():
        torch.testing.assert_close(twin(seen), network(seen))
        assert joined(network, seen) is network


def test_only_zeros_alike_on_both_sides_are_pads_of_a_convolution() -> None:
    reflecting = PadsTwice()
    reflecting.padding_mode = "reflect"
    two = PadsTwice()
    two.other = nn.ZeroPad2d(1)
    assert pads(nn.Sequential(PadsTwice(-1), reflecting, two)) == {}


def test_a_copy_has_twins_of_its_own(model: VisionModel, pixels: Tensor) -> None:
    model.quick()
    other = model.copy()
    other.network.get_parameter("_fc.weight").data.zero_()
    with torch.inference_mode():
        scores = other.quick().logits(pixels)
    torch.testing.assert_close(scores[0], other.network.get_parameter("_fc.bias"))


class TestHeads:
    """The linear layer that makes the logits is found, and taken off a copy."""

    @pytest.mark.parametrize(
        ("name", "head"), [("resnet18", "fc"), ("densenet121", "classifier"), ("swin-t", "head")]
    )
    def test_it_makes_the_logits_of_what_is_left(
        self, name: str, head: str, pixels: Tensor
    ) -> None:
        network = lively(RECORDS[name].build())
        with torch.no_grad():
            body, found = headless(network, pixels)
            assert found is not None
            assert found.weight is network.get_submodule(head).weight
            assert torch.equal(found(body(pixels)), network(pixels))
        assert isinstance(body.get_submodule(head), nn.Identity)
        assert not any(each._forward_hooks for each in (*body.modules(), *network.modules()))

    @pytest.mark.parametrize(
        "end",
        [
            nn.AdaptiveAvgPool2d(1),  # none at all
            nn.Sequential(
                nn.Flatten(), nn.Linear(192, 5), nn.Softmax(1)
            ),  # what it makes is changed
            nn.Sequential(nn.Flatten(), *[nn.Linear(192, 192)] * 2),  # runs twice
        ],
        ids=["none", "before the end", "twice"],
    )
    def test_others_stay(self, end: nn.Module) -> None:
        network = nn.Sequential(nn.Identity(), end)
        body, found = headless(network, torch.rand(2, 3, 8, 8))
        assert body is network
        assert found is None

    def test_one_that_is_known_by_two_names_stays(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = self.second = nn.Linear(192, 5)

            def forward(self, x: Tensor) -> Tensor:
                made: Tensor = self.second(x.flatten(1))
                return made

        network = Twice()
        assert headless(network, torch.rand(2, 3, 8, 8)) == (network, None)

    def test_one_that_is_asked_for_more_than_its_output_stays(self) -> None:
        class Asks(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(192, 5)

            def forward(self, x: Tensor) -> Tensor:
                made: Tensor = self.head(x.flatten(1).to(self.head.weight.dtype))
                return made

        network = Asks()
        assert headless(network, torch.rand(2, 3, 8, 8)) == (network, None)

    def test_a_network_that_writes_over_its_input_is_looked_at_all_the_same(self) -> None:
        network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 5))
        with torch.inference_mode():
            pixels = torch.rand(2, 3, 8, 8)
            assert headless(network, pixels)[1] is not None

    def test_one_that_does_more_than_a_linear_layer_stays(self) -> None:
        class Scaled(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:  # its name in torch
                return super().forward(input) * 2

        network = nn.Sequential(nn.Flatten(), Scaled(192, 5))
        assert headless(network, torch.rand(2, 3, 8, 8)) == (network, None)


class TestScores:
    def test_a_network_that_nobody_needs_goes_with_its_compiled_one(self) -> None:
        other = tiny_swin()
        assert compiled_scorer(other, WORTH) is not None
        kept = weakref.ref(other)
        del other
        gc.collect()
        assert kept() is None

    def test_what_the_compiler_does_not_know_is_one_kind_of_error(self) -> None:
        class Odd(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                bent: Tensor = torch.special.i1(x)
                return bent.mean((2, 3))

        with pytest.raises(RuntimeError, match="does not know"):
            compilation.compiled(
                Odd(), [torch.rand(1, 3, 8, 8)], [(1, 3, 8, 8)], precision="float32"
            )

    def test_many_pictures_are_scored_by_a_compiled_network(
        self, model: VisionModel, pixels: Tensor
    ) -> None:
        score = compiled_scorer(model, WORTH)
        assert score is not None
        with torch.inference_mode():
            plain = model.logits(pixels)
            assert not torch.equal(score(pixels), plain)
            assert (score(pixels) - plain).abs().max() <= 1e-5 * plain.abs().max()
            assert torch.equal(score(pixels), score(pixels))

    def test_their_differences_are_as_close_to_the_true_ones_as_the_plain_network_s(
        self, model: VisionModel
    ) -> None:
        score = compiled_scorer(model, WORTH)
        assert score is not None
        twin = model.copy()
        twin.network.double()
        apart: list[tuple[float, float]] = []
        for name in ("cat", "astronaut"):
            photo = Image.decode(samples.photographs()[name].read_bytes())
            seen = model.frame(photo).pixels
            hidden = covered(seen, model.grey.expand_as(seen), patches(224, 32, 32)[::2])
            every = torch.cat([seen, hidden])
            with torch.inference_mode():
                true = twin.logits(every.double())
                found = score(every), model.logits(every).double()
            assert found[0].dtype == torch.float64
            target = int(true[0].argmax())
            ours, plain = (
                (logits[0] - logits[1:] - (true[0] - true[1:]))[:, target] for logits in found
            )
            apart.append((float(ours.norm()), float(plain.norm())))
        assert sum(ours for ours, _ in apart) <= 1.6 * sum(plain for _, plain in apart)

    def test_a_network_without_a_linear_head_is_compiled_as_it_is(
        self, small_model: VisionModel
    ) -> None:
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        other = small_model.around(network.eval())
        score, seen = compiled_scorer(other, WORTH), other.noise(3)
        assert score is not None
        with torch.inference_mode():
            torch.testing.assert_close(score(seen).float(), other.logits(seen))

    def test_few_never_are_whatever_went_before(self, model: VisionModel) -> None:
        assert scorer(model, WORTH) is not model.logits
        assert compiled_scorer(model, WORTH - 1) is None
        assert scorer(model, WORTH - 1) == model.logits

    @pytest.mark.parametrize("what", MISFITS)
    def test_without_a_compiler_that_fits_the_network_scores(
        self, what: str, small_model: VisionModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = misfit(what, lambda network: nn.Sequential(network, nn.Softmax(1)))
        monkeypatch.setattr(scoring, "compiled", wrong)
        assert scorer(small_model, WORTH) == small_model.logits
