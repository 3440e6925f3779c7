"""Saliency: which pixels the score depends on."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.gradients import Gradients, class_gradient
from lantern.image import Image
from lantern.progress import Progress, Step, Told
from lantern.registry import technique
from lantern.sums import Sums
from lantern.techniques.effort import effort
from lantern.techniques.explained import Attribution, GradientsParams, explained, preview, turn
from lantern.techniques.target import choose_class
from lantern.vision_model import TOGETHER, VisionModel
from lantern.work import Sizes, Work


class SaliencyParams(GradientsParams):
    """What to explain, how to calm the gradient and how to reduce it to one map."""

    reduce: Literal["abs-max", "signed", "gradient-x-input"] = Field(
        "abs-max",
        description="largest absolute gradient of the channels, their sum, or that x input",
    )
    method: Literal["gradient", "smooth-grad", "var-grad"] = Field(
        "gradient",
        description="the gradient itself, or the mean or the variance of it over noisy copies",
    )
    samples: int = Field(16, ge=2, le=200, description="noisy copies for the last two methods")
    noise: float = Field(
        0.15, gt=0, le=1, description="deviation of their noise, as a share of the picture's range"
    )


def _work(params: SaliencyParams, sizes: Sizes, model: VisionModel) -> Work:
    # of each copy the way there and back
    return effort(params, model, 2 if params.method == "gradient" else 1 + 2 * params.samples)


@technique(
    "saliency",
    family="attribution",
    runs="interactive",
    source="Simonyan et al. 2013, arXiv:1312.6034, section 3; Smilkov et al. 2017, "
    "arXiv:1706.03825 (SmoothGrad); Adebayo et al. 2018, arXiv:1810.03307 (VarGrad)",
    outputs={
        "heatmap": "gradient of the class score (logit), per pixel of the network's view in 0..1"
    },
    work=_work,
)
def saliency(
    model: VisionModel,
    image: Annotated[Image, "picture to explain"],
    generator: torch.Generator,
    progress: Progress,
    checkpoints: Checkpoints,
    params: SaliencyParams,
) -> Outcome:
    """Show how strongly each pixel would change the class score.

    The gradient is of the logit, not of the probability, with respect to pixels in 0..1. Averaged
    over copies of the picture with noise it loses its speckles.
    """
    told = Told(progress)

    def explain(network: VisionModel, pixels: Tensor, target: int | None) -> Attribution:
        is_asked, tell, kept = turn(network, model, told, checkpoints)
        if params.method == "gradient":
            choose = functools.partial(choose_class, network, target=target)
            gradient, logits = class_gradient(network, pixels, choose)
            target = choose(logits)
            field = _reduce(gradient[0], pixels[0], params.reduce)
            tell(Step(1, 1, 0.0, preview(field, pixels)))
            kept.heed()
            return Attribution(field, logits, target)
        with torch.no_grad():
            logits = network.logits(pixels)
        target = choose_class(network, logits, target)
        gradients = params.gradients(network, params.samples if is_asked else 1)
        # a random network sees the same copies: the maps are to differ by the weights alone
        chance = generator.clone_state()
        field = _over_copies(gradients, pixels, target, params, chance, tell, kept)
        return Attribution(field, logits, target)

    return explained(model, image, params, explain)


def _over_copies(
    gradients: Gradients,
    pixels: Tensor,
    target: int,
    params: SaliencyParams,
    generator: torch.Generator,
    progress: Progress,
    checkpoints: Checkpoints,
) -> Tensor:
    """Return the mean or the variance of the gradient over copies with noise, reduced."""
    batches = -(-params.samples // TOGETHER)
    spread = params.noise * float(pixels.max() - pixels.min())
    zero = torch.zeros_like(pixels[0], dtype=torch.float64)
    sums = Sums.begun(zero, generator, checkpoints)

    def tell() -> None:
        so_far = _reduce(sums.mean.to(pixels), pixels[0], params.reduce)
        progress(Step(-(-sums.count // TOGETHER), batches, 0.0, preview(so_far, pixels)))

    if sums.count:  # of a run that goes on, where it was
        tell()
    while sums.count < params.samples:
        count = min(params.samples - sums.count, TOGETHER)
        noise = torch.randn(count, *pixels.shape[1:], generator=generator).to(pixels)
        sums.add(gradients(pixels + spread * noise, target).double())
        tell()
        sums.keep()
    field = sums.mean if params.method == "smooth-grad" else sums.variance
    return _reduce(field.to(pixels), pixels[0], params.reduce)


def _reduce(gradient: Tensor, pixels: Tensor, how: str) -> Tensor:
    if how == "abs-max":
        return gradient.abs().amax(0)
    return (gradient if how == "signed" else gradient * pixels).sum(0)
