"""Calls side by side meet at networks, where pictures of one size pass in one batch."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handlers.technique_handler import TechniqueHandler
from lantern.call import Call, Studio
from lantern.errors import BadImage
from lantern.image import Image
from lantern.styles import batches as modules
from lantern.styles.batches import Batches
from lantern.styles.engine import Engine, Hands
from lantern.styles.library import StyleLibrary
from lantern.styles.network import StyleNetwork
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo
from tests.paintings import chance, fill, hand, in_float32, network


class Passes:
    """Makes engines of which every pass is noted: how many pictures of which size."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def __call__(self, network: StyleNetwork, hands: Hands = "own") -> Engine:
        plain = in_float32(network, hands)

        def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
            self.seen.append((len(pixels), *pixels.shape[2:]))
            return plain.forward(pixels, hand)

        return Engine("noted", run)


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def batches(passes: Passes) -> Batches:
    return Batches(passes)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=chance(seed))


def test_pictures_of_one_size_and_network_pass_together(batches: Batches, passes: Passes) -> None:
    ours, other = network(), network(3)
    many, own, one = batches.engine(ours, "given"), batches.engine(ours), batches.engine(other)
    given = [
        (many, noise(16, 24, 1), hand(ours, 1)[None]),
        (own, noise(16, 24, 2), None),
        (many, noise(24, 16, 3), hand(ours, 2)[None]),
        (many, noise(16, 24, 4), hand(ours, 3)[None]),
        (one, noise(16, 24, 5), None),
        (own, noise(16, 24, 6), None),
    ]
    together = batches.each([functools.partial(e.forward, x, h) for e, x, h in given])
    assert sorted(passes.seen) == [(1, 16, 24), (1, 24, 16), (2, 16, 24), (2, 16, 24)]
    for (engine, pixels, wanted), painted in zip(given, together, strict=True):
        assert torch.allclose(painted, engine.forward(pixels, wanted), atol=1e-5)


def test_those_that_need_no_network_hold_up_nobody(batches: Batches, passes: Passes) -> None:
    engine = batches.engine(network())

    def paints(times: int) -> int:
        for _ in range(times):
            engine.forward(noise(16, 16))
        return times

    calls = [functools.partial(paints, times) for times in (2, 0, 3, 1)]
    assert batches.each(calls) == [2, 0, 3, 1]
    assert [number for number, _, _ in passes.seen] == [3, 2, 1]
    passes.seen.clear()
    assert batches.each([functools.partial(paints, 2)]) == [2]
    assert batches.each([]) == []
    assert [number for number, _, _ in passes.seen] == [1, 1]


def test_a_batch_has_so_many_pixels(
    batches: Batches, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "MOST_PIXELS", 2 * 16 * 16)
    engine = batches.engine(network())
    sides = (16, 16, 16, 64, 64)
    batches.each([functools.partial(engine.forward, noise(side, side)) for side in sides])
    assert sorted(passes.seen) == [(1, 16, 16), (1, 64, 64), (1, 64, 64), (2, 16, 16)]


def test_what_fails_fails_for_those_it_is_about() -> None:
    def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
        if pixels.shape[-1] == 20:
            raise RuntimeError("out of memory")
        return pixels

    batches = Batches(lambda *_: Engine("failing", run))
    engine = batches.engine(network())

    def call(side: int) -> str:
        if side == 0:
            raise_bad()
        try:
            return str(tuple(engine.forward(noise(side, side)).shape))
        except RuntimeError as error:
            return str(error)

    def guarded(side: int) -> str:
        try:
            return call(side)
        except BadImage as error:
            return error.detail

    found = batches.each([functools.partial(guarded, side) for side in (16, 20, 0, 20, 16)])
    good = "(1, 3, 16, 16)"
    assert found == [good, "out of memory", "no picture", "out of memory", good]
    assert batches.each([functools.partial(guarded, 16)] * 2) == [good, good]


def raise_bad() -> None:
    raise BadImage("no picture")


def test_one_call_runs_at_a_time(batches: Batches) -> None:
    engine, inside, most = batches.engine(network()), 0, 0

    def call() -> None:
        nonlocal inside, most
        for _ in range(3):
            with batches.turn():
                inside += 1
                most = max(most, inside)
                threading.Event().wait(0.002)
                inside -= 1
                engine.forward(noise(16, 16))

    batches.each([call] * 4)
    assert (inside, most) == (0, 1)


# --- Rows of TorchServe ------------------------------------------------------------------------


class Context:
    """TorchServe's context, as far as a handler looks."""

    def __init__(self, heads: list[str]) -> None:
        self.heads, self.statuses = heads, [200] * len(heads)

    def get_request_header(self, at: int, key: str) -> str:
        return self.heads[at]

    def set_response_status(self, code: int, phrase: str, at: int) -> None:
        self.statuses[at] = code

    def set_response_content_type(self, at: int, value: str) -> None:
        pass

    def set_response_header(self, at: int, key: str, value: str) -> None:
        pass


@pytest.fixture
def answer(
    batches: Batches, tmp_path: Path, picture: Image, model: VisionModel
) -> Callable[..., tuple[list[bytes], list[int]]]:
    folder = fill(tmp_path / "styles", model, picture).folder
    library = StyleLibrary(folder, engine=batches.engine, looker=lambda: model)
    handler = TechniqueHandler()
    handler.studio = Studio(Zoo(downloads=False), library, batches)

    def answer(*calls: Call) -> tuple[list[bytes], list[int]]:
        packed = [call.pack() for call in calls]
        context = Context([head for head, _ in packed])
        return handler.handle([{"body": body} for _, body in packed], context), context.statuses

    return answer


def test_rows_of_a_batch_are_painted_together_as_they_are_alone(
    answer: Callable[..., tuple[list[bytes], list[int]]], passes: Passes, photo: Image
) -> None:
    def call(side: int, technique: str = "fast-style", **params: Any) -> Call:
        inputs = {"image": photo.resize(side, 64).encode()}
        if technique == "arbitrary-style":
            inputs["style"] = photo.encode()
        return Call(technique, inputs, params, accept=["image/png"])

    calls = [
        call(48, style="stars"),
        call(48, style="waves"),
        call(64, style="stars"),
        call(48, "arbitrary-style"),
        Call("fast-style", {"image": b"no picture"}, {"style": "stars"}),
        call(48, style="dots"),
        call(48, style="stars:0.5,waves:0.5", strength=0.5, color="histogram"),
        Call("saliency", {"image": photo.encode()}, accept=["image/png"]),
    ]
    together, statuses = answer(*calls)
    assert statuses == [200, 200, 200, 200, 422, 200, 200, 200]
    assert json.loads(together[4])["code"] == "undecodable-image"
    assert sorted(passes.seen) == [(1, 48, 64), (1, 64, 64), (4, 48, 64)]
    for body, row in zip(together, calls, strict=True):
        (alone,), _ = answer(row)
        if row.accept == ["image/png"]:
            one, other = (Image.decode(data).to_uint8().astype(int) for data in (body, alone))
            assert abs(one - other).max() <= 1
