"""Losses are what the papers' formulas say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lantern.optimize import objectives
from lantern.optimize.objectives import (
    Guide,
    alikeness,
    content_loss,
    gram,
    guided,
    relative_error,
    style_loss,
)
from lantern.optimize.regularize import total_variation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gram_is_the_sum_over_positions() -> None:
    activation = random(3, 5, 7, 4)
    by_einsum = torch.einsum("nchw,ndhw->ncd", activation, activation) / (5 * 7 * 4)
    assert torch.allclose(gram(activation), by_einsum, atol=1e-6)


def test_gram_forgets_where_things_are_but_not_what() -> None:
    activation = random(1, 5, 6, 6)
    moved = activation.flatten(2)[:, :, torch.randperm(36)].view(1, 5, 6, 6)
    assert torch.allclose(gram(moved), gram(activation), atol=1e-6)
    # shuffled within each channel by itself, what goes together no longer does
    torn = torch.stack([channel.flatten()[torch.randperm(36)] for channel in activation[0]])
    assert not torch.allclose(gram(torn.view(1, 5, 6, 6)), gram(activation), atol=1e-2)


def test_relative_error_by_hand() -> None:
    value = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    target = torch.tensor([[1.0, 1.0], [3.0, 4.0], [3.0, 4.0]])
    assert relative_error(value, target).tolist() == pytest.approx([1 / 2, 1, 0])


def test_relative_error_does_not_depend_on_scale() -> None:
    value, target = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    assert torch.allclose(
        relative_error(value * 1000, target * 1000), relative_error(value, target), rtol=1e-5
    )


def test_relative_error_of_an_empty_target_is_finite() -> None:
    assert relative_error(torch.zeros(1, 3), torch.zeros(1, 3)).item() == 0
    assert torch.isfinite(relative_error(torch.ones(1, 3), torch.zeros(1, 3))).all()


def test_losses_are_means_over_layers_and_separate_for_samples() -> None:
    seen = {"a": random(2, 3, 4, 4), "b": random(2, 5, 2, 2), "unused": random(2, 1, 1, 1)}
    wanted = {"a": random(1, 3, 4, 4, seed=1), "b": random(1, 5, 2, 2, seed=1)}
    grams = {name: gram(value) for name, value in wanted.items()}
    style = style_loss(seen, grams)
    content = content_loss(seen, {n: v.expand(2, -1, -1, -1) for n, v in wanted.items()})
    for sample in range(2):
        by_hand_style, by_hand_content = [], []
        for name in "ab":
            g = gram(seen[name][sample : sample + 1])
            by_hand_style.append(((g - grams[name]) ** 2).sum() / (grams[name] ** 2).sum())
            difference = seen[name][sample] - wanted[name][0]
            by_hand_content.append((difference**2).sum() / (wanted[name] ** 2).sum())
        assert style[sample].item() == pytest.approx(float(sum(by_hand_style)) / 2, rel=1e-5)
        assert content[sample].item() == pytest.approx(float(sum(by_hand_content)) / 2, rel=1e-5)


def test_losses_vanish_at_the_target() -> None:
    seen = {"a": random(2, 3, 4, 4)}
    assert style_loss(seen, {"a": gram(seen["a"])}).tolist() == [0, 0]
    assert content_loss(seen, seen).tolist() == [0, 0]


def test_total_variation_by_hand() -> None:
    pixels = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]).view(1, 1, 2, 3)
    down = (2**2 + 1**2 + 1**2) / 3
    right = (1**2 + 2**2 + 0 + 0) / 4
    both = torch.cat([pixels, torch.full_like(pixels, 7)])
    assert total_variation(both).tolist() == pytest.approx([down + right, 0])


# --- Guides ------------------------------------------------------------------------------------


def test_a_guide_has_the_directions_from_its_mean() -> None:
    guide = Guide.of(torch.tensor([[1.0, 0.0], [5.0, 0.0], [3.0, 6.0]]))
    assert guide.mean.tolist() == [3, 2]
    assert torch.allclose(guide.directions.norm(dim=1), torch.ones(3))
    assert guide.directions[2].tolist() == [0, 1]


@pytest.mark.parametrize("at_once", [7, 4096])
def test_positions_are_matched_as_by_brute_force(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "MATCHED_AT_ONCE", at_once)
    guide, activation = Guide.of(random(9, 6)), random(2, 6, 5, 4, seed=1)
    worth = guided(activation, guide)
    assert worth.shape == (2, 5, 4)
    for sample in range(2):
        for row in range(5):
            for column in range(4):
                vector = activation[sample, :, row, column] - guide.mean
                dots = [float(vector @ direction) for direction in guide.directions]
                cosine = max(0.1, max(dots) / float(vector.norm()))
                expected = max(dots) * cosine**2
                assert worth[sample, row, column].item() == pytest.approx(expected, rel=1e-4)


def test_a_guide_is_worth_most_where_it_is() -> None:
    vectors = random(9, 6)
    guide = Guide.of(vectors)
    # the same length away from the mean, along the guide's own directions and along others
    own = guide.mean + guide.directions
    other = guide.mean + torch.nn.functional.normalize(random(9, 6, seed=4), dim=1)
    found = [guided(v.T[None, :, :, None], guide)[0, :, 0] for v in (own, other)]
    assert torch.allclose(found[0], torch.ones(9), atol=1e-5)
    assert (found[1] < 0.999).all()


def test_a_guide_without_features_asks_for_nothing() -> None:
    activation = random(1, 6, 3, 3).requires_grad_()
    guided(activation, Guide.of(torch.ones(4, 6))).sum().backward()  # type: ignore[no-untyped-call]
    assert activation.grad is not None
    assert not activation.grad.any()


@pytest.mark.parametrize("shape", [(12, 2, 2), (3, 6, 5)])  # by positions, and by channels
def test_alikeness_is_the_cosine_of_gram_matrices(shape: tuple[int, int, int]) -> None:
    variants, looks = 3, 2
    activation = random(2 * variants * looks, *shape).requires_grad_()
    grams = gram(activation).view(2, variants, looks, -1).mean(2)
    each: list[Tensor] = []
    for of_one in grams:
        for n in range(variants):
            others = [m for m in range(variants) if m != n]
            alike = [F.cosine_similarity(of_one[n], of_one[m], 0) for m in others]
            each.append(torch.stack(alike).mean())
    found, by_hand = alikeness(activation, variants, looks), torch.stack(each)
    assert found.tolist() == pytest.approx(by_hand.tolist(), rel=1e-4)
    slope, other = (torch.autograd.grad(value.sum(), activation)[0] for value in (found, by_hand))
    assert torch.allclose(slope, other, atol=1e-6)


def test_alikeness_of_what_answers_nothing_has_a_gradient() -> None:
    activation = torch.zeros(4, 3, 2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(alikeness(activation, 2, 2).sum(), activation)
    assert slope.isfinite().all()
