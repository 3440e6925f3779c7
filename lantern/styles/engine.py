"""Where a style network runs: OpenVINO where it is installed, plain torch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    openvino = _import_openvino()
    if openvino is None:
        return None
    model = _convert(network)
    core = openvino.Core()
    bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # two pinned processes would share one core
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
            # kernels kept for sizes seen before; without a bound every new size stays in memory
            "CPU_RUNTIME_CACHE_CAPACITY": 400,
        },
    )
    request = compiled.create_infer_request()

    def forward(pixels: Tensor) -> Tensor:
        outputs = request.infer([pixels.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(next(iter(outputs.values())))

    return Engine(f"openvino-{'bfloat16' if bfloat16 else 'float32'}", forward)


def _import_openvino() -> Any:
    # OpenVINO reports its import and every conversion over the network unless its reporter is
    # missing; with this entry the import of the reporter fails and its silent stand-in is used.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        return None
    return openvino


def _convert(network: StyleNetwork) -> Any:
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode():
        decoder = TorchScriptPythonDecoder(network, example_input=(torch.zeros(1, 3, 64, 64),))
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape([1, 3, -1, -1])
    return model


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
