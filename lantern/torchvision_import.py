"""Import torchvision beside any build of torch.

The package index has only a torchvision built against CUDA; beside a CPU torch its import fails
because it registers meta kernels for two operators its own binary could not declare. Declaring
them first is enough; Lantern uses neither. Import torchvision from here and nowhere else.
"""

from __future__ import annotations

import importlib

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _declare() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                torch.library.define(f"torchvision::{operator}", _SCHEMA)


_declare()

from torchvision import models  # noqa: E402

__all__ = ["models"]
