"""What all maps that explain a class have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from lantern.artifact import Heatmap, Outcome
from lantern.checkpoint import Checkpoints
from lantern.faithfulness import (
    RANDOMISED,
    What,
    curve_batches,
    evidence,
    randomised,
    sanity,
)
from lantern.gradients import Gradients, gradients, plain_gradients
from lantern.image import Image
from lantern.judging import Judging
from lantern.params import Params
from lantern.progress import Progress, Told
from lantern.techniques.classify import Fit
from lantern.techniques.target import LARGEST_MAP, class_facts
from lantern.vision_model import VisionModel

# What rounding, and quicker arithmetic, may move a score by: a share of the largest one, and of a
# probability itself.
ROUNDING, ROUNDING_OF_ONE = 1e-5, 1e-6
# Share of the largest logit: of a smaller change rounding hides the usual gap.
LEAST_CHANGE = 1e-3

_NOT_OF_A_CLASS = (
    "the map explains a neuron; insertion and deletion judge maps of a class and are left out"
)

_NOT_COMPARED = (
    "the map says the same of every place; it is not compared with those of random weights"
)


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
        False,
        description="also compare the map with those of the network with random weights: rank "
        "correlations in the facts, 0 to 1; null where one of the two is the same everywhere",
    )

    def steps_of_evidence(self, own: int) -> int:
        """Return how many steps the curves take, and the maps of random networks."""
        maps = len(RANDOMISED) * max(1, own) if self.sanity else 0
        return curve_batches(self.evidence) + maps


class GradientsParams(ExplainParams):
    """Also by which arithmetic the mean of many gradients is found."""

    exact: bool = Field(
        False,
        description="take the network's own arithmetic for each of many gradients, at a third of "
        "the speed; without it rounding moves their mean by less than more of them would",
    )

    def gradients(self, model: VisionModel, count: int) -> Gradients:
        """Return the way to so many gradients of a network, each of which adds little."""
        return plain_gradients(model) if self.exact else gradients(model, count)


@dataclass(frozen=True)
class Attribution:
    """A map `[h,w]` over the network's view, for a class, and what was found on the way.

    `more` are further maps, by name. `neuron` says which one is explained where it is not the
    class. `are_shares` where the values add up to something, which they then do over a picture
    of any size too. `rounding` is how far apart the values may lie by that alone, where they are
    differences of scores.
    """

    field: Tensor
    logits: Tensor
    target: int
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    more: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    neuron: Mapping[str, Any] | None = None
    warnings: Sequence[str] = ()
    are_shares: bool = False
    rounding: float = 0.0

    @property
    def is_degenerate(self) -> bool:
        """Whether the map says the same of every place, but for rounding."""
        return bool(self.field.max() - self.field.min() <= self.rounding)

    @property
    def told(self) -> Tensor:
        """The map without what rounding alone made of it: where it is degenerate, even."""
        if not self.is_degenerate:
            return self.field
        level = float(self.field.mean())
        return torch.full_like(self.field, level if abs(level) > self.rounding else 0.0)


Explain = Callable[[VisionModel, Tensor, int | None], Attribution]
"""Explains pixels `[1,3,S,S]` in 0..1 of a network: a class, or its first choice if None."""


def explained(model: VisionModel, image: Image, params: ExplainParams, explain: Explain) -> Outcome:
    """Explain a picture by a method: the map over it, the class, and the evidence for the map."""
    image = image.fit(LARGEST_MAP)
    framing = model.frame(image, params.fit)
    found = explain(model, framing.pixels, params.target)
    lay = framing.spread if found.are_shares else framing.to_picture
    fields = {"heatmap": (found.told, found.field)}
    fields |= {name: (field, field) for name, field in found.more.items()}
    heatmaps = tuple(
        Heatmap(name, lay(told.detach().cpu()), image, raw=field.detach().cpu())
        for name, (told, field) in fields.items()
    )

    def judged(judging: Judging) -> dict[str, Any]:
        return _evidence(model, framing.pixels, found, explain, params, judging)

    facts = _facts(model, found, params) | {"map_size": [image.height, image.width]}
    return Outcome(heatmaps, facts, evidence=None if found.is_degenerate else judged)


def rounding_of_logits(logits: Tensor) -> float:
    """Return how far apart two logits may lie by rounding alone; they are of the size of these."""
    return ROUNDING * float(logits.abs().max())


def rounding_of_probability(model: VisionModel, logits: Tensor, target: int) -> float:
    """Return how far apart two probabilities may lie by rounding alone; `logits` is `[1,C]`."""
    one = float(model.probabilities(logits)[0, target])
    return one * ((1 - one) * rounding_of_logits(logits) + ROUNDING_OF_ONE)


def gap_of(change: float, total: float, logits: Tensor) -> float:
    """Return the share of the change of a logit that a sum of shares misses, or has too much.

    `logits` say how large they are: a change that is next to none of that counts as larger.
    """
    least = max(LEAST_CHANGE * float(logits.abs().max()), 1e-6)
    return abs(total - change) / max(abs(change), least)


def completeness(change: float, total: float, gap: float) -> dict[str, float]:
    """Say how well shares add up to the change of a logit."""
    return {"change": round(change, 6), "sum": round(total, 6), "gap": round(gap, 6)}


class Turn(NamedTuple):
    """How one of the networks that are explained is told of and kept."""

    is_asked: bool
    tell: Progress
    kept: Checkpoints


def turn(network: VisionModel, model: VisionModel, told: Told, checkpoints: Checkpoints) -> Turn:
    """Return how a network is told of: the `model` asked for, or a random one it is compared with.

    The steps of a random one are not counted, and nothing of it is kept.
    """
    if network is model:
        return Turn(True, told.step, checkpoints)
    return Turn(False, told.again, checkpoints.aside())


def preview(field: Tensor, pixels: Tensor) -> Callable[[], Image]:
    """Return how to show a map `[h,w]` over pixels `[1,3,S,S]` while it is found and judged."""
    whole = resized(field.float().cpu(), (pixels.shape[2], pixels.shape[3]))
    return Heatmap("preview", whole, Image(pixels[0].cpu())).drawn


def _facts(model: VisionModel, found: Attribution, params: ExplainParams) -> dict[str, Any]:
    facts = class_facts(model, found.logits, found.target) | dict(found.facts)
    facts["degenerate"] = found.is_degenerate
    warnings = list(found.warnings)
    if found.neuron is not None:
        facts["neuron"] = dict(found.neuron)
        warnings += [_NOT_OF_A_CLASS] if params.evidence else []
    if params.sanity and found.is_degenerate:
        facts["sanity"] = {f"{what}_randomised": None for what in RANDOMISED}
        warnings.append(_NOT_COMPARED)
    return facts | ({"warnings": warnings} if warnings else {})


def _evidence(
    model: VisionModel,
    pixels: Tensor,
    found: Attribution,
    explain: Explain,
    params: ExplainParams,
    judging: Judging,
) -> dict[str, Any]:
    """Judge a map by its curves, and by the maps of networks that know nothing."""
    facts: dict[str, Any] = {}
    shown = preview(found.field.detach(), pixels)
    if params.evidence and found.neuron is None:
        seen = resized(found.field.detach(), (pixels.shape[2], pixels.shape[3]))
        through = judging.through("curves", shown)
        facts |= evidence(model, pixels, seen, found.target, steps=params.evidence, through=through)
    if params.sanity:

        def of_random(what: What) -> Tensor:
            return explain(randomised(model, what), pixels, found.target).told

        through = judging.through("sanity", shown, len(RANDOMISED) * judging.map_steps)
        facts["sanity"], warnings = sanity(found.field, of_random, through)
        facts |= {"warnings": warnings} if warnings else {}
    return facts


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map `[h,w]` to a height and a width, as those of the network's view."""
    if values.shape == size:
        return values
    out: Tensor = nn.functional.interpolate(
        values[None, None], size=size, mode="bilinear", align_corners=False
    )
    return out[0, 0]
