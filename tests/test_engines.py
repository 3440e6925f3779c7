"""A style network runs by the fastest engine that can be made and paints what float32 paints."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lantern.image import Image
from lantern.styles import engine as engines
from lantern.styles import graphs
from lantern.styles.engine import Engine, Hands, engine_for, graphed_engine, torch_engine
from lantern.styles.graphs import Paint, Record
from tests.paintings import chance, hand, in_float32, network

HANDS: tuple[Hands, ...] = ("own", "given", "measured")


@pytest.fixture(autouse=True)
def _untold() -> Iterator[None]:
    """What was told once is told again."""
    engines._tell.cache_clear()
    yield
    engines._tell.cache_clear()


def given(hands: Hands, pixels: Tensor, seed: int = 1) -> Tensor | None:
    ours = network()
    wanted = hand(ours, seed)[None]
    return {"own": None, "given": wanted, "measured": ours.measure(pixels, wanted)}[hands]


def levels_apart(one: Tensor, other: Tensor) -> float:
    return float((one.mul(255).round() - other.mul(255).round()).abs().mean())


# --- The choice --------------------------------------------------------------------------------


@pytest.mark.parametrize("hands", HANDS)
@pytest.mark.parametrize("how", ["as it is", "missing", "broken"])
def test_whatever_openvino_does_the_picture_is_kept(
    hands: Hands, how: str, photo: Image, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if how != "as it is":
        module = types.ModuleType("openvino") if how == "broken" else None
        monkeypatch.setitem(sys.modules, "openvino", module)
    pixels = photo.resize(64, 96).pixels[None]
    if how == "broken":
        engine_for(network(), hands)
    engine = engine_for(network(), hands)
    assert engine.name.startswith("openvino-" if how == "as it is" else "torch-cpu-")
    painted, wanted = (
        each.forward(pixels, given(hands, pixels))
        for each in (engine, in_float32(network(), hands))
    )
    assert painted.shape == pixels.shape
    assert painted.dtype == torch.float32
    assert levels_apart(painted, wanted) <= 1.5
    told = [record for record in caplog.records if "OpenVINO" in record.getMessage()]
    assert len(told) == (how == "broken"), "told once"


def off(levels: float) -> Callable[[Tensor], Tensor]:
    return lambda painted: painted + levels / 255


def slow(painted: Tensor) -> Tensor:
    time.sleep(0.3)
    return painted


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [(off(0), True), (off(1.2), True), (off(1.8), False), (off(float("nan")), False),
     (slow, False)],
    ids=["same", "near", "far", "nan", "slow"],
)  # fmt: skip
def test_what_is_fastest_and_keeps_the_picture_is_taken(
    change: Callable[[Tensor], Tensor], is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[float, Tensor] = {}

    def forward(pixels: Tensor, hand: Tensor | None) -> Tensor:
        key = float(pixels.sum())
        if key not in known:  # the others compute each time
            known[key] = network()(pixels).clamp(2 / 255, 1 - 2 / 255)
        return change(known[key])

    monkeypatch.setattr(engines, "openvino_engine", lambda *_: Engine("other", forward))
    assert (engine_for(network()).name == "other") == is_taken


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((4, 5), "0"), ((4, 3), "0"), ((4, 2), "1"), ((9, 5, 4), "1"), ((1,), "0")],
)
def test_the_first_engine_gives_way_to_what_is_clearly_faster(
    seconds: tuple[float, ...], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ran = 0.0, list[str]()

    def taking(name: str, seconds: float) -> Engine:
        def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
            nonlocal now
            # every pass but the last meets a busy machine
            now += seconds + (100 if ran.count(name) < engines.TIMES - 1 else 0)
            ran.append(name)
            return pixels

        return Engine(name, run)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    trial = engines._Trial(torch.rand(1, 3, 8, 8), None, torch.rand(1, 3, 8, 8))
    found = [taking(str(place), each) for place, each in enumerate(seconds)]
    assert trial.fastest(found).name == chosen
    if len(seconds) > 1:  # in turns
        assert ran[: len(seconds) * 2] == [str(place) for place in range(len(seconds))] * 2


def test_openvino_comes_first_and_float32_before_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def first(trial: object, found: list[Engine]) -> Engine:
        seen.extend(engine.name for engine in found)
        return found[0]

    def keeping(*_: object) -> Engine:
        return Engine("other", lambda pixels, hand: network()(pixels))

    monkeypatch.setattr(engines, "openvino_engine", keeping)
    monkeypatch.setattr(engines._Trial, "fastest", first)
    assert engine_for(network()).name == "other"
    assert seen[:2] == ["other", "torch-cpu-float32"]
    assert seen[2:] in ([], ["torch-cpu-bfloat16"])


def test_an_engine_that_fails_when_it_paints_again_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[int] = []

    def once(pixels: Tensor, hand: Tensor | None) -> Tensor:
        passes.append(1)
        if len(passes) > 1:
            raise OSError("no such graph")
        painted: Tensor = network()(pixels)
        return painted

    monkeypatch.setattr(engines, "openvino_engine", lambda *_: Engine("other", once))
    assert engine_for(network()).name.startswith("torch-cpu-")


def test_an_engine_that_fails_at_once_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pixels: Tensor, hand: Tensor | None) -> Tensor:
        raise OSError("no such instruction")

    monkeypatch.setattr(engines, "openvino_engine", lambda *_: Engine("other", fail))
    assert engine_for(network()).name.startswith("torch-cpu-")


def test_choosing_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    engine_for(network())
    assert torch.equal(torch.get_rng_state(), before)


# --- Recorded passes ---------------------------------------------------------------------------


class Recorder:
    """Records as CUDA graphs do: what is played has inputs and an output of its own."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self) -> Record:
        return self.record

    def record(self, paint: Paint, pixels: Tensor, hand: Tensor | None) -> Paint:
        self.shapes.append(tuple(pixels.shape))
        still, own = pixels.clone(), None if hand is None else hand.clone()
        painted = paint(still, own)

        def play(pixels: Tensor, hand: Tensor | None) -> Tensor:
            still.copy_(pixels)
            if own is not None and hand is not None:
                own.copy_(hand)
            return painted.copy_(paint(still, own))

        return play


@pytest.mark.parametrize("hands", HANDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_is_recorded_once_for_each_shape(hands: Hands, dtype: torch.dtype) -> None:
    ours, recorder = network(), Recorder()
    engine = graphed_engine(ours, dtype, hands, recorder)
    plain = torch_engine(ours, dtype, hands)
    kept: list[tuple[Tensor, Tensor]] = []
    for seed, (number, height, width) in enumerate([(1, 32, 48), (1, 32, 48), (2, 32, 48)] * 2):
        pixels = torch.rand(number, 3, height, width, generator=chance(seed))
        hand = given(hands, pixels[:1], seed)
        hand = None if hand is None else hand.expand(number, -1)
        kept.append((engine.forward(pixels, hand), plain.forward(pixels, hand)))
    assert recorder.shapes == [(1, 3, 32, 48), (2, 3, 32, 48)]
    for painted, wanted in kept:  # none was written over by a later one
        assert painted.dtype == torch.float32
        assert levels_apart(painted, wanted) <= (1.5 if dtype == torch.bfloat16 else 0.01)


def test_so_many_recorded_passes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    recorder = Recorder()
    engine = graphed_engine(network(), torch.float32, "own", recorder)
    for side in (16, 20, 16, 24, 16, 20):
        engine.forward(torch.rand(1, 3, side, side))
    assert [shape[-1] for shape in recorder.shapes] == [16, 20, 24, 20]


def test_large_pictures_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_PIXELS", 32 * 32)
    recorder = Recorder()
    engine = graphed_engine(network(), torch.float32, "own", recorder)
    for number, side in ((1, 36), (2, 32), (1, 32)):
        pixels = torch.rand(number, 3, side, side)
        assert torch.allclose(engine.forward(pixels), network()(pixels), atol=1e-5)
    assert recorder.shapes == [(1, 3, 32, 32)]


def test_what_cannot_be_recorded_is_painted_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(paint: Paint, pixels: Tensor, hand: Tensor | None) -> Paint:
        raise RuntimeError("operation not permitted when stream is capturing")

    engine = graphed_engine(network(), torch.float32, "own", lambda: refuse)
    pixels = torch.rand(1, 3, 32, 32)
    for _ in range(2):
        assert torch.allclose(engine.forward(pixels), network()(pixels), atol=1e-5)
    assert caplog.text.count("cannot be recorded") == 1
