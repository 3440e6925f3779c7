"""Networks compiled for the processor by OpenVINO, where that is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Compiled:
    """A compiled network: `forward` maps its inputs to its output, all float32.

    `precision` is what it computes in.
    """

    precision: str
    forward: Callable[..., Tensor]


def compiled(
    network: nn.Module,
    examples: Sequence[Tensor],
    shapes: Sequence[Sequence[int]],
    *,
    precision: Literal["float32", "fastest"],
) -> Compiled | None:
    """Compile for OpenVINO's CPU plug-in with torch's number of threads; None without OpenVINO.

    `shapes` are those of the inputs, -1 where they may be anything. `fastest` is bfloat16 on
    processors that compute in it (elsewhere it is emulated at a loss).

    Raises:
        RuntimeError: the network has something that OpenVINO does not know.
    """
    openvino = _import_openvino()
    if openvino is None:
        return None
    try:
        model = _convert(network, examples)
    except Exception as error:  # OpenVINO's own kinds have nothing else in common
        raise RuntimeError("OpenVINO does not know all of this network") from error
    model.reshape(
        {
            given: openvino.PartialShape(list(shape))
            for given, shape in zip(model.inputs, shapes, strict=True)
        }
    )
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bfloat16 = precision == "fastest" and "BF16" in capabilities
    made = core.compile_model(
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
    request = made.create_infer_request()

    def forward(*given: Tensor) -> Tensor:
        outputs = request.infer([x.contiguous().numpy() for x in given], share_inputs=True)
        return torch.from_numpy(next(iter(outputs.values())))

    return Compiled("bfloat16" if bfloat16 else "float32", forward)


def _import_openvino() -> Any:
    # OpenVINO reports its import and every conversion over the network unless its reporter is
    # missing; with this entry the import of the reporter fails and its silent stand-in is used.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        return None
    return openvino


def _convert(network: nn.Module, examples: Sequence[Tensor]) -> Any:
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = _decoder(network, examples)  # which OpenVINO itself does not keep alive
    return frontend.convert(frontend.load(decoder))


def _decoder(network: nn.Module, examples: Sequence[Tensor]) -> Any:
    if isinstance(network, fx.GraphModule):  # which needs not be traced
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        return TorchFXPythonDecoder(
            network,
            input_shapes=[list(example.shape) for example in examples],
            input_types=[example.dtype for example in examples],
        )
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode():
        # torch would run it twice more to compare, and import a second's worth of modules for it
        return TorchScriptPythonDecoder(
            network, example_input=tuple(examples), trace_kwargs={"check_trace": False}
        )
