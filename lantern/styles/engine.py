"""Where a style network runs: the fastest engine of those that can be made and paint the same."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lantern.compiled import compiled
from lantern.styles.graphs import Record, Recorded, cuda_graphs
from lantern.styles.joined import joined
from lantern.styles.network import Measured, StyleNetwork, made

Hands = Literal["own", "given", "measured"]
"""Whose hand a network paints in: its own, one given at each call, or a measured one."""
# Side (px) of the picture that engines are tried on, how often they paint it, and by how many
# levels of 256 they may then differ from float32 in the mean.
TRIED, TIMES, APART = 128, 6, 1.5
# How many times as fast an engine must be than one of which more is expected. By the clock alone
# two processes that start on a busy machine would choose differently, and so paint differently.
CLEARLY = 1.5
log = logging.getLogger("lantern")


@dataclass(frozen=True)
class Engine:
    """A network made ready to run."""

    name: str
    run: Callable[[Tensor, Tensor | None], Tensor]

    def forward(self, pixels: Tensor, hand: Tensor | None = None) -> Tensor:
        """Paint pixels `[N,3,H,W]`, float32, in the network's own hand or in those wanted `[N,D]`.

        OpenVINO's takes one picture at a time.
        """
        return self.run(pixels, hand)


def engine_for(network: StyleNetwork, hands: Hands = "own") -> Engine:
    """Choose a fast engine that can be made here and keeps the picture, float32 at worst.

    OpenVINO in float32 is not timed, as torch is never faster. In bfloat16, which it takes only on
    processors that compute in it (elsewhere it is emulated at a loss), it moves an 8-bit picture by
    0.1 to 1.1 levels on average.
    """
    network = network.eval().requires_grad_(False)
    plain = torch_engine(network, torch.float32, hands)
    trial = _trial(network, plain, hands)
    found: list[Engine] = []
    for name, make in _candidates(network, hands, plain):
        engine = trial.admitted(name, make)
        if engine is not None and engine.name == "openvino-float32":
            return engine
        found += [engine] if engine is not None else []
    return trial.fastest(found)


def torch_engine(network: StyleNetwork, dtype: torch.dtype, hands: Hands = "own") -> Engine:
    """Run eagerly in `dtype`."""
    device = next(network.parameters()).device
    ready = network if dtype == torch.float32 else _copy(network).to(device, dtype)

    def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
        with torch.inference_mode():
            given = None if hand is None else hand.to(device, dtype)
            painted: Tensor = ready(pixels.to(device, dtype), given, measured=hands == "measured")
            return painted.float().cpu()

    return Engine(f"torch-{device.type}-{str(dtype).removeprefix('torch.')}", run)


def graphed_engine(
    network: StyleNetwork, dtype: torch.dtype, hands: Hands, record: Callable[[], Record]
) -> Engine:
    """Run in `dtype` with channels last, small pictures by recorded passes."""
    device = next(network.parameters()).device
    ready = _copy(network).to(device, dtype)
    for parameter in ready.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def paint(pixels: Tensor, hand: Tensor | None) -> Tensor:
        painted: Tensor = ready(pixels, hand, measured=hands == "measured")
        return painted

    recorded = Recorded(paint, record())

    def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
        with torch.inference_mode():
            given = None if hand is None else hand.to(device, dtype)
            there = pixels.to(device, dtype, memory_format=torch.channels_last)
            return recorded(there, given)

    return Engine(f"graphs-{device.type}-{str(dtype).removeprefix('torch.')}", run)


def openvino_engine(network: StyleNetwork, hands: Hands = "own") -> Engine | None:
    """Compile for OpenVINO's CPU plug-in with torch's number of threads; None without OpenVINO.

    To be given the hand at each call costs a twentieth of the time.
    """
    pixels, hand = torch.zeros(1, 3, 64, 64), network.hand()[None]
    quick = joined(network)
    ready: nn.Module = Measured(quick) if hands == "measured" else quick
    wanted = 1 if hands == "own" else 2
    examples, shapes = [pixels, hand][:wanted], [(1, 3, -1, -1), tuple(hand.shape)][:wanted]
    done = compiled(ready, examples, shapes, precision="fastest")
    if done is None:
        return None
    forward = done.forward

    def run(pixels: Tensor, hand: Tensor | None) -> Tensor:
        return forward(pixels) if hand is None else forward(pixels, hand)

    return Engine(f"openvino-{done.precision}", run)


Make = Callable[[], Engine | None]


def _candidates(network: StyleNetwork, hands: Hands, plain: Engine) -> Iterator[tuple[str, Make]]:
    """Give by name what networks may run by: what promises most first."""
    if not next(network.parameters()).is_cuda:
        yield "OpenVINO", lambda: openvino_engine(network, hands)
        yield "torch in float32", lambda: plain
        # some processors are slower in it, and none is as exact
        yield "torch in bfloat16", lambda: torch_engine(network, torch.bfloat16, hands)
        return
    if torch.cuda.is_bf16_supported(including_emulation=False):
        yield (
            "CUDA graphs in bfloat16",
            lambda: graphed_engine(network, torch.bfloat16, hands, cuda_graphs),
        )
    yield (
        "CUDA graphs in float32",
        lambda: graphed_engine(network, torch.float32, hands, cuda_graphs),
    )
    yield "torch in float32", lambda: plain


@dataclass(frozen=True)
class _Trial:
    """A small picture `[1,3,H,W]`, the hand to paint it in, and the levels it has in float32."""

    pixels: Tensor
    hand: Tensor | None
    wanted: Tensor

    def admitted(self, name: str, make: Make) -> Engine | None:
        """Make an engine and try it: None where it does not keep the picture.

        Whatever goes wrong, another engine paints.
        """
        try:
            engine = make()
            if engine is None:
                return None
            engine.forward(self.pixels, self.hand)
            painted = engine.forward(self.pixels, self.hand)  # what was recorded, or remembered
            apart = float((_levels(painted) - self.wanted).abs().mean())
        except Exception as error:  # a broken installation raises anything
            _tell(name, f"{type(error).__name__}: {error}")
            return None
        if not apart <= APART:  # nor may it be NaN
            _tell(name, f"its picture is {apart:.1f} levels from that in float32")
            return None
        return engine

    def fastest(self, engines: Sequence[Engine]) -> Engine:
        """Let engines paint in turns; choose the first, or what is clearly faster than it."""
        times: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for _ in range(TIMES if len(engines) > 1 else 0):
            for engine in engines:
                started = time.perf_counter()
                engine.forward(self.pixels, self.hand)
                times[engine.name].append(time.perf_counter() - started)
        chosen, *others = engines
        for engine in others:
            if min(times[engine.name]) * CLEARLY < min(times[chosen.name]):
                chosen = engine
        return chosen


def _trial(network: StyleNetwork, plain: Engine, hands: Hands) -> _Trial:
    chance = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=chance)
    pixels = F.interpolate(coarse, (TRIED, TRIED), mode="bilinear")
    device = next(network.parameters()).device
    hand = None if hands == "own" else network.hand()[None]
    if hands == "measured":
        hand = network.measure(pixels.to(device))
    return _Trial(pixels, hand, _levels(plain.forward(pixels, hand)))


def _levels(pixels: Tensor) -> Tensor:
    """Return what files hold of pixels, 0..255."""
    return pixels.mul(255).round()


@functools.lru_cache(maxsize=64)
def _tell(name: str, why: str) -> None:
    """Say once that style networks do not run so."""
    log.warning("style networks do not run by %s: %s", name, why)


def _copy(network: StyleNetwork) -> StyleNetwork:
    twin = made(network.architecture)
    twin.load_state_dict(network.state_dict())
    return twin.eval().requires_grad_(False)
