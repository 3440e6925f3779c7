"""Saliency: which pixels the score depends on."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from lantern.artifact import Heatmap, Outcome
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.techniques.classify import Fit
from lantern.techniques.target import LARGEST_MAP, choose_class, class_facts
from lantern.vision_model import VisionModel


class SaliencyParams(Params):
    """What to explain and how to reduce the gradient to one map."""

    target: int | None = Field(
        None, ge=0, le=100_000, description="class to explain; the network's first choice if absent"
    )
    reduce: Literal["abs-max", "signed", "gradient-x-input"] = Field(
        "abs-max",
        description="largest absolute gradient of the channels, their sum, or that x input",
    )
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")


@technique(
    "saliency",
    family="attribution",
    runs="interactive",
    source="Simonyan et al. 2013, arXiv:1312.6034, section 3",
    outputs={
        "heatmap": "gradient of the class score (logit), per pixel of the network's view in 0..1"
    },
)
def saliency(
    model: VisionModel, image: Annotated[Image, "picture to explain"], params: SaliencyParams
) -> Outcome:
    """Show how strongly each pixel would change the class score.

    The gradient is of the logit, not of the probability, with respect to pixels in 0..1.
    """
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    with torch.enable_grad():
        pixels = framing.pixels.clone().requires_grad_()
        logits = model.logits(pixels)
        target = choose_class(model, logits, params.target)
        (gradient,) = torch.autograd.grad(logits[0, target], pixels)
    field = _reduce(gradient[0], framing.pixels[0], params.reduce)
    heatmap = Heatmap("heatmap", framing.to_picture(field.cpu()), image)
    return Outcome((heatmap,), class_facts(model, logits, target) | degenerate(heatmap))


def degenerate(heatmap: Heatmap) -> dict[str, bool]:
    """Flag a map that is the same everywhere and so explains nothing."""
    low, high = heatmap.bounds
    return {"degenerate": low == high}


def _reduce(gradient: torch.Tensor, pixels: torch.Tensor, how: str) -> torch.Tensor:
    if how == "abs-max":
        return gradient.abs().amax(0)
    return (gradient if how == "signed" else gradient * pixels).sum(0)
