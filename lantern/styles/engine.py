"""Where a style network runs: OpenVINO where it is installed, plain torch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lantern.compiled import compiled
from lantern.styles.joined import joined
from lantern.styles.network import Measured, StyleNetwork, made

Hands = Literal["own", "given", "measured"]
"""Whose hand a network paints in: its own, one given at each call, or a measured one."""


@dataclass(frozen=True)
class Engine:
    """A network made ready to run."""

    name: str
    run: Callable[[Tensor, Tensor | None], Tensor]

    def forward(self, pixels: Tensor, hand: Tensor | None = None) -> Tensor:
        """Paint pixels `[1,3,H,W]`, float32, in the network's own hand or in the one wanted."""
        return self.run(pixels, hand)


def engine_for(network: StyleNetwork, hands: Hands = "own") -> Engine:
    """Choose the fastest engine that keeps the picture: OpenVINO, else the faster torch type.

    OpenVINO runs in bfloat16 only on processors that compute in it (elsewhere it is emulated at a
    loss); against float32 that moves an 8-bit picture by 0.1 to 0.3 levels on average.
    """
    network = network.eval().requires_grad_(False)
    device = next(network.parameters()).device
    if device.type != "cpu":
        return torch_engine(network, torch.bfloat16, hands)
    return openvino_engine(network, hands) or _faster(network, hands)


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


def _faster(network: StyleNetwork, hands: Hands) -> Engine:
    dtypes = (torch.float32, torch.bfloat16)
    hand = None if hands == "own" else network.hand()[None]
    return min((torch_engine(network, d, hands) for d in dtypes), key=lambda e: _seconds(e, hand))


def _seconds(engine: Engine, hand: Tensor | None) -> float:
    pixels = torch.zeros(1, 3, 128, 128)
    engine.forward(pixels, hand)
    started = time.perf_counter()
    engine.forward(pixels, hand)
    return time.perf_counter() - started


def _copy(network: StyleNetwork) -> StyleNetwork:
    twin = made(network.architecture)
    twin.load_state_dict(network.state_dict())
    return twin.eval().requires_grad_(False)
