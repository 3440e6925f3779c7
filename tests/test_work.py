"""What a run will take: operations counted from shapes, against hand counts and real passes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lantern.errors import InvalidParameter
from lantern.records import record
from lantern.vision_model import LOGITS, VisionModel
from lantern.work import WHOLE, LayerFacts, Work, check, survey
from lantern.zoo import sketch
from tests.alive import watched


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
    found = survey(empty, 3, 10)
    assert found["0"] == LayerFacts((4, 10, 10), 2 * 100 * 12, 4 * 400)
    assert found[WHOLE] == found["0"]
    small_model.costs()
    assert all(not m._forward_hooks for m in small_model.network.modules())
    assert all(not p.is_meta for p in small_model.network.parameters())


@pytest.mark.parametrize("name", ["efficientnet-lite0", "squeezenet1-0", "densenet121"])
def test_a_sketch_is_known_as_well_as_the_network(name: str) -> None:
    known = sketch(name)
    counter = FlopCounterMode(display=False)
    network = record(name).build().eval()
    with counter, torch.no_grad():
        network(torch.rand(1, 3, known.input_size, known.input_size))
    assert known.costs()[WHOLE] == counter.get_total_flops()
    assert all(p.is_meta for p in known.network.parameters())
    assert known.class_count == 1000


def test_the_memory_of_a_gradient_by_hand(small_model: VisionModel) -> None:
    tapes = small_model.tapes()
    assert tapes["conv1"] == 4 * 8 * 32 * 32
    assert tapes["pool"] == 2 * tapes["conv1"] + 4 * 8 * 16 * 16
    work = Work(10, 64 * 64, ("pool",), at_once=2 * 64 * 64)
    assert work.memory(tapes, 32) == 8 * tapes["pool"]


def test_the_memory_of_a_gradient_is_about_what_is_counted(model: VisionModel) -> None:
    with watched() as alive:
        model.logits(torch.rand(1, 3, 224, 224, requires_grad=True)).sum().backward()  # type: ignore[no-untyped-call]
    assert 0.5 < alive.most / model.tapes()[WHOLE] < 1.5


def test_work_ends_at_the_deepest_layer_and_grows_with_the_picture() -> None:
    table = {"a": 10.0, "b": 30.0, WHOLE: 100.0}
    assert Work(4, 50 * 50, ("a", "b")).operations(table, 100) == 4 * 30 / 4
    assert Work(1, 100 * 100).operations(table, 100) == 100
    assert Work(0, 0, more=7.0).operations(table, 100) == 7
    # a layer that is not known counts as the whole
    assert Work(1, 100 * 100, ("nowhere",)).operations(table, 100) == 100


def test_too_much_is_refused_with_the_remedy() -> None:
    check(9.9e12, 1e9, most=1e13, most_memory=2e9)
    with pytest.raises(InvalidParameter, match=r"12\.3 tera-operations; at most 10") as caught:
        check(12.34e12, 1e9, most=1e13, most_memory=2e9)
    assert caught.value.code == "too-much-work"
    assert "lower the steps" in caught.value.detail
    with pytest.raises(InvalidParameter, match="keep 2500 MB at a time; at most 2000") as caught:
        check(1e12, 2.5e9, most=1e13, most_memory=2e9)
    assert caught.value.code == "too-much-work"
    assert "lower the size" in caught.value.detail
