"""pytorch-grad-cam, whose import needs what torchvision lacks beside a CPU build of torch."""

from __future__ import annotations

import lantern.torchvision_import  # noqa: F401

# isort: split
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

__all__ = [
    "AblationCAM",
    "ClassifierOutputTarget",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
]
