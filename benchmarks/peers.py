"""The network as peers want it, and pytorch-grad-cam.

Its import needs what torchvision lacks beside a CPU build of torch.
"""

from __future__ import annotations

import lantern.torchvision_import  # noqa: F401

# isort: split
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from lantern.vision_model import VisionModel

__all__ = [
    "AblationCAM",
    "Classifier",
    "ClassifierOutputTarget",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ScoreCAM",
]


class Classifier(nn.Module):
    """The network with its normalisation, as the peers want it."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.network = model.network
        self._model = [model]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits `[N,C]` of pixels `[N,3,S,S]` in 0..1."""
        return self._model[0].logits(pixels)
