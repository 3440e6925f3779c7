"""Integrated gradients: what each pixel adds to the score on the way from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints, restoring
from lantern.gradients import Gradients
from lantern.image import Image
from lantern.optimize.regularize import blur
from lantern.progress import Progress, Step, Told
from lantern.registry import technique
from lantern.techniques.effort import effort
from lantern.techniques.explained import (
    Attribution,
    GradientsParams,
    completeness,
    explained,
    gap_of,
    preview,
    rounding_of_logits,
    turn,
)
from lantern.techniques.target import choose_class
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work

# Sigma of the blurred baseline, px at 224.
BLUR = 12.0

Baseline = Literal["grey", "black", "white", "blur"]


class IntegratedGradientsParams(GradientsParams):
    """What to explain, and the way to go."""

    baseline: Baseline = Field("grey", description="picture of nothing, where the way begins")
    steps: int = Field(50, ge=2, le=400, description="points of the way that are looked at")
    most_steps: int = Field(
        400, ge=2, le=1600, description="how far they are doubled while the gap is too wide"
    )
    gap: float = Field(
        0.01, gt=0, le=1, description="share of the score's change that may be missing in the sum"
    )


def _work(params: IntegratedGradientsParams, sizes: Sizes, model: VisionModel) -> Work:
    # the usual gap is narrow enough when the points were doubled once; a narrower one may need all
    is_usual = params.gap >= IntegratedGradientsParams.model_fields["gap"].default
    most = min(params.most_steps, 2 * params.steps) if is_usual else params.most_steps
    points = steps = params.steps
    while 2 * steps <= most:
        steps *= 2
        points += steps
    return effort(params, model, 2 + 2 * points)


@technique(
    "integrated-gradients",
    family="attribution",
    runs="interactive",
    source="Sundararajan et al. 2017, arXiv:1703.01365, section 3",
    outputs={
        "heatmap": "share of each pixel in the change of the class score (logit), signed; they add "
        "up to it"
    },
    work=_work,
)
def integrated_gradients(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    progress: Progress,
    checkpoints: Checkpoints,
    params: IntegratedGradientsParams,
) -> Outcome:
    """Share out a class score among the pixels, so that the shares add up to it.

    Sums gradients along the straight way from a picture of nothing. `completeness` says how well
    the shares add up to the change of the score; the points are doubled until they do.
    """
    told = Told(progress)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        nothing = _nothing(network, pixels, params.baseline)
        with torch.inference_mode():
            logits = network.logits(torch.cat([pixels, nothing]))
        target = choose_class(network, logits[:1], target)
        change = float(logits[0, target] - logits[1, target])
        is_asked, tell, kept = turn(network, model, told, checkpoints)
        gradients = params.gradients(network, params.steps if is_asked else 1)
        so_far = Sum.begun(params.steps, pixels, kept)
        if so_far.steps > params.steps:  # an earlier run has told of all
            batches = -(-params.steps // TOGETHER)
            told.last = Step(batches, batches, 0.0, lambda: image)
        while True:
            steps = so_far.steps
            # how often the points are doubled shows only at the end
            tell_of = tell if steps == params.steps else told.again
            shares = integrate(gradients, pixels, nothing, target, so_far, tell_of, kept)
            total = float(shares.sum())
            gap = gap_of(change, total, logits)
            if gap <= params.gap or 2 * steps > params.most_steps:
                break
            so_far = Sum.nothing(2 * steps, pixels)
        return Attribution(
            shares.sum(0).to(pixels),
            logits[:1].clone(),
            target,
            {"completeness": completeness(change, total, gap) | {"steps": steps}},
            warnings=_missing(gap, steps) if gap > params.gap else (),
            are_shares=True,
            rounding=rounding_of_logits(logits),
        )

    return explained(model, image, params, explain)


@dataclass
class Sum:
    """Gradients `[3,S,S]` by weight, float64, summed over `done` of `steps` points of the way."""

    steps: int
    total: Tensor
    done: int = 0

    @classmethod
    def nothing(cls, steps: int, pixels: Tensor) -> Sum:
        """Begin with no points."""
        return cls(steps, torch.zeros_like(pixels[0], dtype=torch.float64))

    @classmethod
    def begun(cls, steps: int, pixels: Tensor, checkpoints: Checkpoints) -> Sum:
        """Begin with no points, or go on with those of an earlier run, which may be more."""
        kept = checkpoints.restore_tensors()
        if kept is None:
            return cls.nothing(steps, pixels)
        with restoring():
            steps, done = kept["points"].tolist()
            return cls(steps, kept["total"].to(pixels.device), done)

    def state(self) -> dict[str, Tensor]:
        """Return what is kept for a run that goes on."""
        return {"total": self.total, "points": torch.tensor([self.steps, self.done])}


def integrate(
    gradients: Gradients,
    pixels: Tensor,
    nothing: Tensor,
    target: int,
    so_far: Sum,
    progress: Progress,
    checkpoints: Checkpoints,
) -> Tensor:
    """Return each value's share `[3,S,S]` in the change of a logit, float64, by Gauss-Legendre.

    The points that are not done yet are added to the sum, which is kept.
    """
    steps = so_far.steps
    points, weights = np.polynomial.legendre.leggauss(steps)
    way, batches = pixels - nothing, -(-steps // TOGETHER)

    def tell() -> None:
        shown = preview((so_far.total * way[0]).sum(0), pixels)
        progress(Step(-(-so_far.done // TOGETHER), batches, 0.0, shown))

    if so_far.done:  # of a run that goes on, where it was
        tell()
    for at in range(so_far.done, steps, TOGETHER):
        share = torch.tensor((points[at : at + TOGETHER] + 1) / 2).to(pixels)[:, None, None, None]
        weight = torch.tensor(weights[at : at + TOGETHER] / 2, device=pixels.device)
        found = gradients(nothing + share * way, target)
        so_far.total += torch.einsum("n,nchw->chw", weight, found.double())
        so_far.done += len(share)
        tell()
        checkpoints.keep_tensors(so_far.state)
    return so_far.total * way[0]


def _missing(gap: float, steps: int) -> tuple[str, ...]:
    return (
        f"the shares miss {gap:.2g} of the score's change with {steps} steps, more than `gap`: "
        "raise `most_steps`",
    )


def _nothing(model: VisionModel, pixels: Tensor, baseline: Baseline) -> Tensor:
    if baseline == "blur":
        return blur(pixels, BLUR * pixels.shape[-1] / 224)
    if baseline == "grey":
        return model.grey.expand_as(pixels).clone()
    return torch.full_like(pixels, float(baseline == "white"))
