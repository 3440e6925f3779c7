"""Gradients by a compiled network are autograd's, or autograd does it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern import compiled as compilation
from lantern import gradients as module
from lantern.backward import CannotRecord, backward_network
from lantern.gradients import WORTH, Gradients, compiled_gradients, gradients, plain_gradients
from lantern.image import Image
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.compilers import MISFITS, misfit

Pass = Callable[[Tensor], Tensor]
SIDE = 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KERNEL = torch.randn(8, 3, 3, 3, generator=seeded(1))
WIDE = torch.randn(8, 4, 5, 3, generator=seeded(2))
DEEP = torch.randn(8, 1, 3, 3, generator=seeded(3))
BIAS = torch.randn(8, generator=seeded(4))


def maps(pixels: Tensor) -> Tensor:
    return F.conv2d(pixels, KERNEL, BIAS, padding=1)


def scored(made: Tensor) -> Tensor:
    """Return scores `[N,5]` of anything, no two values of which count alike."""
    flat = made.flatten(1)
    return flat @ torch.randn(flat.shape[1], 5, generator=seeded(5))


def cut_and_joined(pixels: Tensor) -> Tensor:
    made = maps(pixels)
    return torch.cat([made[:, 2:5] * 2, made[:, 6:], made[:, 1].unsqueeze(1)], 1)


def written_over(pixels: Tensor) -> Tensor:
    made = maps(pixels)
    made.add_(0.5)
    F.hardtanh_(made, 0.2, 1.5)
    return made * 2


def squeezed_and_excited(pixels: Tensor) -> Tensor:
    made = F.silu(maps(pixels))
    share = torch.sigmoid(F.adaptive_avg_pool2d(made, 1) * 3)
    return made * share + made


def normed(pixels: Tensor) -> Tensor:
    return F.batch_norm(maps(pixels), BIAS, BIAS.abs() + 0.1, BIAS + 2, BIAS, eps=1e-3)


PASSES: dict[str, Pass] = {
    "strides": lambda x: F.conv2d(x, KERNEL, BIAS, stride=2, padding=1),
    "strides that leave a rest": lambda x: F.conv2d(x[..., 1:, :], KERNEL, stride=(3, 2)),
    "groups and odd kernels": lambda x: F.conv2d(maps(x), WIDE, padding=(1, 0), groups=2),
    "dilated": lambda x: F.conv2d(maps(x), DEEP, padding=2, dilation=2, groups=8),
    "wide padding": lambda x: F.conv2d(x, KERNEL, padding=4),
    "padding cut off": lambda x: F.pad(maps(F.pad(x, (1, 2, 0, 3))), (-1, -2, 1, -1)),
    "relu6": lambda x: F.relu6(2 * maps(x)),
    "leaky": lambda x: F.leaky_relu(maps(x), 0.2),
    "hard swish": lambda x: F.hardswish(2 * maps(x)),
    "hard sigmoid": lambda x: F.hardsigmoid(2 * maps(x)),
    "silu": lambda x: F.silu(maps(x)),
    "gelu": lambda x: F.gelu(maps(x)),
    "tanh": lambda x: torch.tanh(maps(x)),
    "softmax": lambda x: maps(x).softmax(1),
    "means": lambda x: F.avg_pool2d(maps(x), 3, 2, padding=1),
    "means of squares": lambda x: F.adaptive_avg_pool2d(maps(x), (4, 3)),
    "means of single pixels": lambda x: F.adaptive_avg_pool2d(maps(x), SIDE),
    "cut and joined": cut_and_joined,
    "written over": written_over,
    "squeezed and excited": squeezed_and_excited,
    "normed": normed,
}
UNWRITTEN: dict[str, Pass] = {
    "largest values": lambda x: F.max_pool2d(maps(x), 2),
    "a gelu that is nearly one": lambda x: F.gelu(maps(x), approximate="tanh"),
    "windows of several sizes": lambda x: F.adaptive_avg_pool2d(maps(x), 5),
    "a norm that measures": lambda x: F.instance_norm(maps(x)),
    "transposed": lambda x: F.conv_transpose2d(x, KERNEL.transpose(0, 1)),
    "nothing of the pixels": lambda x: maps(x.detach()),
}


@pytest.mark.parametrize("name", PASSES)
def test_the_way_back_is_that_of_autograd(name: str) -> None:
    def scores(pixels: Tensor) -> Tensor:
        return scored(PASSES[name](pixels))

    first, pixels = torch.rand(2, 2, 3, SIDE, SIDE, generator=seeded(0))
    weights = torch.randn(2, 5, generator=seeded(6))
    network = backward_network(scores, first, torch.ones(2, 5))
    leaf = pixels.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((scores(leaf) * weights).sum(), leaf)
    (plain,) = network(pixels, weights)
    torch.testing.assert_close(plain, wanted, rtol=1e-4, atol=1e-4)
    compiled = compilation.compiled(
        network, [first, weights], [first.shape, weights.shape], precision="float32"
    )
    assert compiled is not None
    torch.testing.assert_close(compiled.forward(pixels, weights), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", UNWRITTEN)
def test_what_cannot_be_written_down_is_refused(name: str) -> None:
    def scores(pixels: Tensor) -> Tensor:
        return scored(UNWRITTEN[name](pixels))

    def made() -> object:
        given = torch.rand(1, 3, SIDE, SIDE), torch.ones(1, 5)
        network, shapes = backward_network(scores, *given), [part.shape for part in given]
        return compilation.compiled(network, given, shapes, precision="float32")

    with pytest.raises((CannotRecord, RuntimeError)):
        made()


@pytest.mark.parametrize("way", [plain_gradients, lambda model: gradients(model, WORTH)])
def test_those_of_a_batch_are_those_of_each_picture(
    way: Callable[[VisionModel], Gradients], small_model: VisionModel
) -> None:
    found = way(small_model)
    pixels = torch.rand(5, 3, 32, 32, generator=seeded(6))
    together = found(pixels, 2)
    alone = torch.cat([found(one[None], 2) for one in pixels])
    assert together.shape == pixels.shape
    assert (together - alone).abs().max() <= 1e-6 * alone.abs().max()
    assert (alone[0] - alone[1]).abs().max() > 1e-2 * alone.abs().max()


class TestOfNetworks:
    def test_they_are_autograds(self, model: VisionModel, photo: Image) -> None:
        found = compiled_gradients(model, WORTH)
        assert found is not None
        pixels = torch.cat([model.frame(photo).pixels, model.frame(photo, "crop").pixels])
        for target in (0, 281, 999):
            wanted = plain_gradients(model)(pixels, target)
            made = found(pixels, target)
            assert made.shape == pixels.shape
            # rounding switches units that are nearly zero
            assert (made - wanted).norm() <= 0.02 * wanted.norm()
            assert torch.equal(found(pixels[1:], target), made[1:])

    def test_few_never_are_compiled_whatever_went_before(self, model: VisionModel) -> None:
        assert compiled_gradients(model, WORTH) is not None
        assert compiled_gradients(model, WORTH - 1) is None

    def test_a_network_that_nobody_needs_goes_with_them(self, model: VisionModel) -> None:
        other = model.copy()
        assert compiled_gradients(other, WORTH) is not None
        kept = weakref.ref(other)
        del other
        gc.collect()
        assert kept() is None

    def test_the_network_stays_as_it_was(self, model: VisionModel) -> None:
        other = model.copy()
        before = {name: value.clone() for name, value in other.network.state_dict().items()}
        assert compiled_gradients(other, WORTH) is not None
        for network in (other.network, other.quick().network):
            assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
        assert all(torch.equal(v, before[n]) for n, v in other.network.state_dict().items())

    @pytest.mark.parametrize("what", MISFITS)
    def test_without_a_compiler_that_fits_autograd_finds_them(
        self, what: str, model: VisionModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = model.copy()
        wrong = misfit(what, lambda network: nn.Sequential(Paired(network), nn.Tanh()))
        monkeypatch.setattr(module, "compiled", wrong)
        pixels = other.noise(1)
        wanted = plain_gradients(other.quick())(pixels, 7)
        assert torch.equal(gradients(other, WORTH)(pixels, 7), wanted)

    def test_a_network_that_heeds_what_it_sees_is_not_compiled(self, model: VisionModel) -> None:
        class Heeds(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = model.copy().network

            def forward(self, pixels: Tensor) -> Tensor:
                scores: Tensor = self.network(pixels * float(pixels.detach().abs().sum()) / 3e4)
                return scores

        heeds = model.around(Heeds())
        assert compiled_gradients(heeds, WORTH) is None

    def test_maps_hardly_move(self, model: VisionModel, photo: Image) -> None:
        for name, params in (
            ("saliency", {"method": "smooth-grad", "samples": WORTH}),
            ("integrated-gradients", {"steps": WORTH, "gap": 1.0}),
        ):
            given = params | {"evidence": 0}
            quick, exact = (
                run(name, {"image": photo}, given | {"exact": exact}, model=model, seed=3)
                for exact in (False, True)
            )
            one, other = (
                torch.from_numpy(found.principal.arrays()["heatmap"]) for found in (quick, exact)
            )
            assert not torch.equal(one, other)
            assert (one - other).norm() <= 0.02 * other.norm()


class Paired(nn.Module):
    """A network of two inputs whose output is one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, weights: Tensor) -> Tensor:
        made: Tensor = self.network(pixels, weights)[0]
        return made
