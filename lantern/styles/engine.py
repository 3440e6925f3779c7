"""Where a style network runs: OpenVINO where it is installed, plain torch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.compiled import compiled
from lantern.styles.network import StyleNetwork


@dataclass(frozen=True)
class Engine:
    """A network made ready to run: `forward` maps pixels `[1,3,H,W]` to pixels, both float32."""

    name: str
    forward: Callable[[Tensor], Tensor]


def engine_for(network: StyleNetwork) -> Engine:
    """Choose the fastest engine that keeps the picture: OpenVINO, else the faster torch type.

    OpenVINO runs in bfloat16 only on processors that compute in it (elsewhere it is emulated at a
    loss); against float32 that moves an 8-bit picture by 0.1 to 0.3 levels on average.
    """
    network = network.eval().requires_grad_(False)
    device = next(network.parameters()).device
    if device.type != "cpu":
        return torch_engine(network, torch.bfloat16)
    return openvino_engine(network) or _faster(network)


def torch_engine(network: StyleNetwork, dtype: torch.dtype) -> Engine:
    """Run eagerly in `dtype`."""
    device = next(network.parameters()).device
    ready = network if dtype == torch.float32 else _copy(network).to(device, dtype)

    def forward(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            painted: Tensor = ready(pixels.to(device, dtype))
            return painted.float().cpu()

    return Engine(f"torch-{device.type}-{str(dtype).removeprefix('torch.')}", forward)


def openvino_engine(network: StyleNetwork) -> Engine | None:
    """Compile for OpenVINO's CPU plug-in with torch's number of threads; None without OpenVINO."""
    example = torch.zeros(1, 3, 64, 64)
    made = compiled(network, example, (1, 3, -1, -1), precision="fastest")
    return Engine(f"openvino-{made.precision}", made.forward) if made else None


def _faster(network: StyleNetwork) -> Engine:
    engines = [torch_engine(network, dtype) for dtype in (torch.float32, torch.bfloat16)]
    return min(engines, key=_seconds)


def _seconds(engine: Engine) -> float:
    pixels = torch.zeros(1, 3, 128, 128)
    engine.forward(pixels)
    started = time.perf_counter()
    engine.forward(pixels)
    return time.perf_counter() - started


def _copy(network: StyleNetwork) -> StyleNetwork:
    twin = StyleNetwork(network.architecture)
    twin.load_state_dict(network.state_dict())
    return twin.eval().requires_grad_(False)
