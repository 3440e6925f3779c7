"""Attention maps: by hand, by other code, and on a transformer that has learnt something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.artifact import Heatmap
from lantern.attention_flow import AttentionFlow, Flow, flow_back
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.run import run
from lantern.vision_model import VisionModel
from tests.transformers import tiny_swin, tiny_vit

FLOWS: list[Flow] = ["attn-lrp", "rollout"]


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def first(logits: Tensor) -> int:
    return int(logits[0].argmax())


@contextmanager
def attentions(model: VisionModel) -> Iterator[list[Tensor]]:
    """Collect the attention `[...,queries,keys]` of each layer, the mean of its heads."""
    seen: list[Tensor] = []

    def ask_again(module: Any, inputs: Any, kwargs: Any, output: Any) -> None:
        hooks.pop(id(module)).remove()
        seen.append(module(*inputs[:3], need_weights=True)[1])

    hooks = {
        id(module): module.register_forward_hook(ask_again, with_kwargs=True)
        for module in model.network.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    yield seen
    assert not hooks


class TestRollout:
    def test_it_is_the_product_of_half_attention_and_half_identity(self, pixels: Tensor) -> None:
        model = tiny_vit()
        with torch.inference_mode(), attentions(model) as seen:
            model.logits(pixels)
        joined = torch.eye(17)
        for attention in seen:
            joined = (attention[0] + torch.eye(17)) / 2 @ joined
        by_hand = joined[0, 1:] / joined[0, 1:].sum()
        found = flow_back(model.logits, pixels, first, "rollout")
        assert found.layers == 3
        assert by_hand.std() > 0.1 * by_hand.mean()
        torch.testing.assert_close(found.field.flatten(), by_hand, rtol=1e-4, atol=1e-7)

    def test_windows_shifts_and_merged_patches_are_followed(self, pixels: Tensor) -> None:
        model = tiny_swin()
        kept: list[Tensor] = []
        real = F.softmax

        def keep(*args: Any, **kwargs: Any) -> Tensor:
            kept.append(real(*args, **kwargs))
            return kept[-1]

        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(F, "softmax", keep)
            model.logits(pixels)
        assert len(kept) == 4
        share = torch.full((4, 4), 1.0)  # the mean of the last grid's tokens
        # a grid of four is one window, which is not shifted
        for attention, shift in zip(reversed(kept), (0, 0, 2, 0), strict=True):
            if attention is kept[1]:  # each merged patch hands its share to its four
                share = share.repeat_interleave(2, 0).repeat_interleave(2, 1)
            share = share + through_windows(share, attention.mean(1), shift)
        found = flow_back(model.logits, pixels, first, "rollout")
        assert found.field.shape == (8, 8)
        torch.testing.assert_close(found.field, share / share.sum(), rtol=1e-4, atol=1e-7)

    def test_other_layers_between_are_refused(self, pixels: Tensor) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch = nn.Conv2d(3, 8, 8, 8)
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.mix = nn.Conv2d(8, 5, 1)

            def forward(self, x: Tensor) -> Tensor:
                tokens = self.patch(x).flatten(2).transpose(1, 2)
                joined = self.attention(tokens, tokens, tokens, need_weights=False)[0]
                mixed: Tensor = self.mix(joined.transpose(1, 2).reshape(-1, 8, 4, 4))
                return mixed.mean((2, 3))

        network = Mixed().eval()
        with pytest.raises(InvalidParameter, match="choose attn-lrp") as caught:
            flow_back(network, pixels, first, "rollout")
        assert caught.value.pointer == "/params/method"
        assert flow_back(network, pixels, first, "attn-lrp").field.shape == (4, 4)


def through_windows(share: Tensor, attention: Tensor, shift: int, side: int = 4) -> Tensor:
    """Hand shares `[h,w]` back to the keys of windows `[W,side**2,side**2]`, by hand."""
    height, width = share.shape
    rolled = torch.roll(share, (-shift, -shift), (0, 1))
    out = torch.zeros_like(share)
    number = 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = rolled[top : top + side, left : left + side].flatten()
            back = torch.einsum("q,qk->k", window, attention[number])
            out[top : top + side, left : left + side] = back.view(side, side)
            number += 1
    return torch.roll(out, (shift, shift), (0, 1))


class TestRelevance:
    def test_a_layer_follows_the_published_rules(self) -> None:
        chance = torch.Generator().manual_seed(2)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=chance, dtype=torch.float64)

        pixels, patch = draw(1, 3, 8, 8), draw(4, 3, 4, 4)
        weights = {name: draw(4, 4) for name in ("q", "k", "v")}
        head = draw(2, 4)

        def forward(x: Tensor) -> Tensor:
            tokens = F.conv2d(x, patch, stride=4).flatten(2).transpose(1, 2)
            query, key, value = (F.linear(tokens, weights[name]) for name in ("q", "k", "v"))
            mixed = (query @ key.transpose(1, 2)).softmax(-1) @ value
            return F.linear(F.gelu(F.layer_norm(mixed, (4,))), head).sum(1)

        found = flow_back(forward, pixels, lambda _: 1, "attn-lrp")

        x = F.conv2d(pixels, patch, stride=4).flatten(2).transpose(1, 2)[0]
        q, k, v = (x @ weights[name].T for name in ("q", "k", "v"))
        scores = q @ k.T
        a = scores.softmax(-1)
        o = a @ v
        centred = o - o.mean(-1, keepdim=True)
        n = centred / (o.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        g = F.gelu(n)
        # equation 8, and the identity rule of equation 9, for what the head sums up
        at_norm = g * head[1]
        per_unit = at_norm / n
        # a norm divides by a constant: relevance goes by o's part in what was centred
        spread = n / centred
        at_o = o * (spread * per_unit - (spread * per_unit).mean(-1, keepdim=True))
        # equations 14 and 13: half to the attention, half to the values
        per_o = at_o / o
        at_a = torch.einsum("qk,kd,qd->qk", a, v, per_o) / 2
        at_v = torch.einsum("qk,kd,qd->kd", a, v, per_o) / 2
        at_scores = scores * (at_a - a * at_a.sum(-1, keepdim=True))
        per_score = at_scores / scores
        at_q = torch.einsum("qd,kd,qk->qd", q, k, per_score) / 2
        at_k = torch.einsum("qd,kd,qk->kd", q, k, per_score) / 2
        by_hand = sum(
            torch.einsum("td,ed,te->t", x, weights[name], at / z)
            for name, at, z in (("q", at_q, q), ("k", at_k, k), ("v", at_v, v))
        )
        torch.testing.assert_close(found.field.flatten(), by_hand, rtol=1e-9, atol=1e-12)

    def test_a_norm_without_a_mean_is_a_division_by_a_constant(self, pixels: Tensor) -> None:
        chance = torch.Generator().manual_seed(2)
        patch = torch.randn(4, 3, 8, 8, generator=chance)

        def forward(x: Tensor) -> Tensor:
            tokens = F.conv2d(x, patch, stride=8).flatten(2).transpose(1, 2)
            even = torch.zeros(1, 16, 16).softmax(-1) @ tokens
            return F.rms_norm(even + tokens, (4,)).mean(1)

        found = flow_back(forward, pixels, first, "attn-lrp")
        # nothing but linear layers and divisions: the shares add up to the score
        assert float(found.field.sum()) == pytest.approx(float(found.logits.max()), rel=1e-4)

    @pytest.mark.parametrize("flow", FLOWS)
    def test_shares_of_other_kinds_are_no_attention(self, flow: Flow, pixels: Tensor) -> None:
        weight = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))

        def forward(x: Tensor) -> Tensor:
            made = F.conv2d(x, weight, stride=8)
            shares = made.reshape(-1, 2, 3, 4, 4).softmax(1).reshape(-1, 6, 4, 4)
            return (made * shares).mean((2, 3))

        with pytest.raises(InvalidParameter, match="no attention"):
            flow_back(forward, pixels, first, flow)

    @pytest.mark.parametrize("flow", FLOWS)
    @pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
    def test_a_pass_under_the_rules_is_the_networks_own(
        self, make: Any, flow: Flow, pixels: Tensor
    ) -> None:
        model = make()
        with torch.inference_mode():
            plain = model.logits(pixels)
        found = flow_back(model.logits, pixels, first, flow)
        torch.testing.assert_close(found.logits, plain, rtol=1e-4, atol=1e-5)

    def test_in_place_activations_are_followed(self, pixels: Tensor) -> None:
        class Plain(nn.Module):
            def __init__(self, *, in_place: bool) -> None:
                super().__init__()
                self.patch = nn.Conv2d(3, 8, 8, 8)
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
                self.relu = nn.SiLU(inplace=in_place)
                self.head = nn.Linear(8, 5)

            def forward(self, x: Tensor) -> Tensor:
                tokens = self.patch(x).flatten(2).transpose(1, 2)
                tokens = tokens + self.attention(tokens, tokens, tokens)[0]
                scores: Tensor = self.head(self.relu(tokens.clone()).mean(1))
                return scores

        apart, in_place = Plain(in_place=False).eval(), Plain(in_place=True).eval()
        in_place.load_state_dict(apart.state_dict())
        maps = [flow_back(each, pixels, first, "attn-lrp").field for each in (apart, in_place)]
        assert maps[0].abs().max() > 0
        assert torch.equal(*maps)

    @pytest.mark.parametrize("flow", FLOWS)
    def test_a_network_without_attention_is_refused(
        self, flow: Flow, small_model: VisionModel, pixels: Tensor
    ) -> None:
        with pytest.raises(InvalidParameter, match="no attention") as caught:
            flow_back(small_model.logits, pixels, first, flow)
        assert caught.value.pointer == "/params/model"


def test_kinds_of_attention_that_are_not_followed_are_refused() -> None:
    query = torch.rand(1, 2, 4, 8, requires_grad=True)
    with AttentionFlow("rollout"), pytest.raises(InvalidParameter, match="causal"):
        F.scaled_dot_product_attention(query, query, query, is_causal=True)


class Linear(nn.Module):
    """Has even attention and otherwise nothing that is not linear, or a division."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 8, 8, bias=False)
        chance = torch.Generator().manual_seed(2)
        self.patch.weight.data = torch.randn(4, 3, 8, 8, generator=chance)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        even = torch.zeros(1, 16, 16).softmax(-1) @ tokens
        return F.rms_norm(even + tokens, (4,)).mean(1)


@pytest.mark.parametrize("is_linear", [True, False])
def test_how_much_of_the_score_the_patches_have_is_said(is_linear: bool, pixels: Tensor) -> None:
    linear = VisionModel(
        "linear", Linear(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=32, resize_size=32,
        labels=(),
    )  # fmt: skip
    model, image = linear if is_linear else tiny_vit(), {"image": Image(pixels[0])}
    result = run("attention-map", image, {"evidence": 0, "target": 1}, model=model)
    said = result.facts["completeness"]
    assert isinstance(result.principal, Heatmap)
    assert result.principal.raw is not None
    total = float(result.principal.raw.sum())
    assert said["sum"] == pytest.approx(total, abs=1e-5)
    with torch.inference_mode():
        score = float(model.logits(pixels)[0, 1])
    assert said["change"] == pytest.approx(score, abs=1e-5)
    assert said["gap"] == pytest.approx(abs(total - score) / abs(score), abs=1e-4)
    assert (said["gap"] < 1e-4) == is_linear
    blind = {"evidence": 0, "method": "rollout"}
    assert "completeness" not in run("attention-map", image, blind, model=tiny_vit()).facts


# --- A transformer that has learnt where to look --------------------------------------------------


def discs(count: int, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pictures `[N,3,32,32]` of a red, green or blue disc in noise; colours and centres."""
    noise = torch.rand(count, 3, 32, 32, generator=chance) * 0.6
    colour = torch.randint(3, (count,), generator=chance)
    centre = torch.randint(6, 26, (count, 2), generator=chance)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    away = (rows - centre[:, :1, None]).square() + (columns - centre[:, 1:, None]).square()
    paint = F.one_hot(colour, 3).float()[:, :, None, None]
    return torch.where(away[:, None] <= 25, paint, noise), colour, centre


@pytest.fixture(scope="module")
def trained() -> VisionModel:
    model = tiny_vit(layers=2)
    chance = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        for module in model.network.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        parameters = list(model.network.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, 3e-3)
        for _ in range(150):
            seen, colour, _ = discs(64, chance)
            loss = F.cross_entropy(model.logits(seen), colour)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert loss.item() < 0.1
    model.network.requires_grad_(False)
    return model


# by chance it would be 15 of them
@pytest.mark.parametrize(("flow", "least"), [("attn-lrp", 45), ("rollout", 30)])
def test_a_map_points_at_what_was_learnt(flow: Flow, least: int, trained: VisionModel) -> None:
    seen, colour, centre = discs(50, torch.Generator().manual_seed(9))
    hits = 0
    for number in range(50):
        asked = int(colour[number])
        found = flow_back(trained.logits, seen[number : number + 1], lambda _, a=asked: a, flow)  # type: ignore[misc]
        row, column = divmod(int(found.field.flatten().argmax()), 4)
        at = torch.tensor([row, column]) * 8 + 3.5
        hits += bool((at - centre[number]).abs().max() <= 5 + 4)
    assert hits >= least


class TestTheTechnique:
    @pytest.mark.parametrize("method", FLOWS)
    def test_it_gives_a_map_with_its_evidence(self, method: Flow, photo: Image) -> None:
        result = run("attention-map", {"image": photo}, {"method": method}, model=tiny_swin())
        facts = dict(result.facts)
        assert result.principal.values.shape == (photo.height, photo.width)  # type: ignore[attr-defined]
        assert facts["grid"] == [8, 8]
        assert facts["attention_layers"] == 4
        assert {"class", "insertion", "deletion", "degenerate"} <= facts.keys()
        assert ("warnings" in facts) == (method == "rollout")

    def test_the_network_says_what_to_choose_instead(
        self, photo: Image, small_model: VisionModel
    ) -> None:
        with pytest.raises(InvalidParameter, match="vit-b-16"):
            run("attention-map", {"image": photo}, {}, model=small_model)


class TestMapsOfTokens:
    @pytest.mark.parametrize(
        ("make", "layer", "shape"),
        [
            (tiny_vit, "encoder.layers.encoder_layer_1", (16, 4, 4)),
            (tiny_vit, "encoder.layers.encoder_layer_2.ln_1", (16, 4, 4)),
            (tiny_swin, "features.1", (12, 8, 8)),
            (tiny_swin, "features.3.1.norm2", (24, 4, 4)),
        ],
    )
    def test_layers_of_tokens_are_given_as_maps(
        self, make: Any, layer: str, shape: tuple[int, ...], pixels: Tensor
    ) -> None:
        model, raw = make(), []
        handle = model.layer(layer).register_forward_hook(lambda m, i, o: raw.append(o))
        with torch.inference_mode(), model.capture([layer]) as capture:
            maps = capture(pixels)[layer]
        handle.remove()
        assert tuple(maps.shape[1:]) == shape == model.shape(layer)
        tokens = raw[-1].flatten(1, -2)[0, -shape[1] * shape[2] :]
        assert torch.equal(maps[0].flatten(1).T, tokens)

    @pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
    def test_gradients_and_stand_ins_reach_them(self, make: Any, pixels: Tensor) -> None:
        model = make()
        layer = model.cam_layer
        with torch.inference_mode():
            plain = model.logits(pixels)
        with model.tail(layer) as tail:
            maps, logits = tail(pixels)
            (gradient,) = torch.autograd.grad(logits[0, 1], maps)
        torch.testing.assert_close(logits.detach(), plain)
        step = 0.1  # far enough for the rise to be well above the rounding of a logit
        moved = maps.detach() + step * gradient
        with torch.inference_mode(), model.substitute(layer) as substitute:
            torch.testing.assert_close(substitute(pixels, maps.detach()), plain)
            risen = substitute(pixels, moved)[0, 1] - plain[0, 1]
        wanted = step * gradient.square().sum()
        assert float(risen) == pytest.approx(float(wanted), rel=0.1)

    @pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "ablation-cam"])
    @pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
    def test_grad_cam_works_on_them(self, make: Any, method: str, photo: Image) -> None:
        params = {"method": method, "relu": False}
        result = run("grad-cam", {"image": photo}, params, model=make())
        assert result.facts["grid"] == [4, 4]
        assert not result.facts["degenerate"]
