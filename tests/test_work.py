"""What a run will take: operations counted from shapes, against hand counts and real passes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lantern.errors import InvalidParameter
from lantern.vision_model import LOGITS, VisionModel
from lantern.work import WHOLE, Work, check, costs


def test_operations_by_hand(small_model: VisionModel) -> None:
    found = small_model.costs()
    conv1 = 2 * 32 * 32 * 8 * 3 * 9
    conv2 = 2 * 16 * 16 * 12 * 8 * 9
    assert found["conv1"] == found["relu1"] == found["pool"] == conv1
    assert found["conv2"] == found["relu2"] == conv1 + conv2
    assert found["fc"] == found[WHOLE] == found[LOGITS] == conv1 + conv2 + 2 * 12 * 7


def test_they_are_those_of_a_real_pass(model: VisionModel) -> None:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.logits(torch.rand(1, 3, 224, 224))
    assert model.costs()[WHOLE] == counter.get_total_flops()
    in_order = [model.costs()[f"_blocks.{n}"] for n in range(16)]
    assert in_order == sorted(in_order)
    assert in_order[0] > 0


def test_counting_leaves_no_trace_and_needs_no_weights(small_model: VisionModel) -> None:
    with torch.device("meta"):
        empty = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    assert costs(empty, 3, 10) == {"0": 2 * 100 * 12, WHOLE: 2 * 100 * 12}
    small_model.costs()
    assert all(not m._forward_hooks for m in small_model.network.modules())
    assert all(not p.is_meta for p in small_model.network.parameters())


def test_work_ends_at_the_deepest_layer_and_grows_with_the_picture() -> None:
    table = {"a": 10.0, "b": 30.0, WHOLE: 100.0}
    assert Work(4, 50 * 50, ("a", "b")).operations(table, 100) == 4 * 30 / 4
    assert Work(1, 100 * 100).operations(table, 100) == 100
    # a layer that is not known counts as the whole
    assert Work(1, 100 * 100, ("nowhere",)).operations(table, 100) == 100


def test_too_much_is_refused_with_the_remedy() -> None:
    check(9.9e12, 1e13)
    with pytest.raises(InvalidParameter, match=r"12\.3 tera-operations; at most 10") as caught:
        check(12.34e12, 1e13)
    assert caught.value.code == "too-much-work"
    assert "lower the steps" in caught.value.detail
