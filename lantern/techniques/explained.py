"""What all maps that explain a class have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from lantern.artifact import Heatmap, Outcome
from lantern.faithfulness import evidence, randomised, rank_correlation
from lantern.image import Image
from lantern.params import Params
from lantern.techniques.classify import Fit
from lantern.techniques.target import LARGEST_MAP, class_facts
from lantern.vision_model import VisionModel


class ExplainParams(Params):
    """Which class to explain, and what evidence to give."""

    target: int | None = Field(
        None, ge=0, le=100_000, description="class to explain; the network's first choice if absent"
    )
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")
    evidence: int = Field(
        8,
        ge=0,
        le=100,
        description="steps of the insertion and deletion curves in the facts; 0 leaves them out",
    )
    sanity: bool = Field(
        False, description="also compare the map with those of the network with random weights"
    )


class GradientsParams(ExplainParams):
    """Also by which arithmetic the mean of many gradients is found."""

    exact: bool = Field(
        False,
        description="take the network's own arithmetic for each of many gradients, at about half "
        "the speed; without it rounding moves their mean by less than more of them would",
    )

    def network(self, model: VisionModel) -> VisionModel:
        """Return the network to take many gradients of, each of which adds little."""
        return model if self.exact else model.quick()


@dataclass(frozen=True)
class Attribution:
    """A map `[h,w]` over the network's view, for a class, and what was found on the way."""

    field: Tensor
    logits: Tensor
    target: int
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Explain = Callable[[VisionModel, Tensor, int | None], Attribution]
"""Explains pixels `[1,3,S,S]` in 0..1 of a network: a class, or its first choice if None."""


def explained(
    model: VisionModel,
    image: Image,
    params: ExplainParams,
    explain: Explain,
    *,
    warnings: Sequence[str] = (),
) -> Outcome:
    """Explain a picture by a method: the map over it, the class, and the evidence for the map."""
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    found = explain(model, framing.pixels, params.target)
    heatmap = Heatmap("heatmap", framing.to_picture(found.field.detach().cpu()), image)
    low, high = heatmap.bounds
    facts = class_facts(model, found.logits, found.target) | dict(found.facts)
    facts["degenerate"] = low == high

    def judged() -> dict[str, Any]:
        return _evidence(model, framing.pixels, found, explain, params)

    return Outcome(
        (heatmap,),
        facts | ({"warnings": list(warnings)} if warnings else {}),
        evidence=None if facts["degenerate"] else judged,
    )


def _evidence(
    model: VisionModel,
    pixels: Tensor,
    found: Attribution,
    explain: Explain,
    params: ExplainParams,
) -> dict[str, Any]:
    """Judge a map by its curves, and by the maps of networks that know nothing."""
    facts: dict[str, Any] = {}
    if params.evidence:
        seen = resized(found.field.detach(), (pixels.shape[2], pixels.shape[3]))
        facts |= evidence(model, pixels, seen, found.target, steps=params.evidence)
    if params.sanity:
        facts["sanity"] = {
            f"{what}_randomised": round(
                abs(rank_correlation(found.field, _of_random(model, what, explain, pixels, found))),
                4,
            )
            for what in ("head", "all")
        }
    return facts


def _of_random(
    model: VisionModel, what: Any, explain: Explain, pixels: Tensor, found: Attribution
) -> Tensor:
    return explain(randomised(model, what), pixels, found.target).field


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map `[h,w]` to a height and a width, as those of the network's view."""
    if values.shape == size:
        return values
    out: Tensor = nn.functional.interpolate(
        values[None, None], size=size, mode="bilinear", align_corners=False
    )
    return out[0, 0]
