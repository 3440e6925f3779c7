"""Classification: what the network believes it sees."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from lantern.artifact import Outcome, Table
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.vision_model import VisionModel

Fit = Literal["squash", "crop"]


class ClassifyParams(Params):
    """How to look at the picture."""

    top: int = Field(5, ge=1, le=1000, description="how many classes to list")
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")


@technique(
    "classify",
    family="inference",
    runs="interactive",
    source="Krizhevsky et al. 2012, section 6 (top-5 protocol)",
    outputs={"classes": "table of class, label and probability, best first"},
)
def classify(
    model: VisionModel, image: Annotated[Image, "picture to classify"], params: ClassifyParams
) -> Outcome:
    """List the classes the network gives the picture, with their probabilities.

    Use it to choose a `target` for the techniques that explain a class.
    """
    with torch.inference_mode():
        logits = model.logits(model.frame(image, params.fit).pixels)
        probabilities = model.probabilities(logits)[0]
    best = probabilities.topk(min(params.top, len(probabilities)))
    rows = tuple(
        {"class": int(index), "label": model.label(int(index)), "probability": round(float(p), 6)}
        for p, index in zip(best.values, best.indices, strict=True)
    )
    return Outcome((Table("classes", rows),), {"fit": params.fit})
