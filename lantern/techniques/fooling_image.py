"""Fooling images: pictures changed by hardly anything, which a network takes for other things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome
from lantern.checkpoint import Checkpoints
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.ascend import Trace, ascend
from lantern.optimize.attack import Aim, Attack
from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.perturbation import WHITE, Bound, Norm, Perturbation
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.classify import Fit
from lantern.techniques.fooling import Fooling, Seen, artifacts, scores
from lantern.vision_model import VisionModel
from lantern.work import Sizes, Work

# Pictures in one run.
MOST = 16
# In levels of 255, where the caller names none: the bound, and a step where there is none; where
# there is one, so many steps lead from the picture to it. Chosen on EfficientNet-Lite0.
EPSILON: dict[Norm, float] = {"linf": 2.0, "l2": 255.0}
FREE_STEP: dict[Norm, float] = {"linf": 4.0, "l2": 255.0}
STEPS_ACROSS: dict[Norm, float] = {"linf": 4.0, "l2": 5.0}
TARGETS = "/params/targets"
LOSSY = "keep the picture as PNG: JPEG or another size may undo the change; see holds_as_jpeg"


class FoolingImageParams(Params):
    """What the pictures are to be taken for, and how far they may be changed for it."""

    targets: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(
        (),
        max_length=MOST,
        description="class to be taken for, one for all pictures or one for each; any but the "
        "present one if empty",
    )
    method: Literal["pgd", "i-fgsm", "normalised"] = Field(
        "pgd",
        description="steps within a bound from a random start (pgd) or from the picture (i-fgsm), "
        "or along the gradient over its length without a bound (normalised)",
    )
    norm: Norm = Field(
        "linf", description="bound the change of any value (linf), or the length of it all (l2)"
    )
    epsilon: float | None = Field(
        None,
        ge=1,
        le=100_000,
        description="largest change; 2 (linf) or 255 (l2) if absent, but without bound for the "
        "method normalised and where there is no picture",
        json_schema_extra={"unit": "levels of 255"},
    )
    steps: int = Field(40, ge=1, le=1000, description="steps at most; done pictures take no more")
    step_size: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="length of a step in levels of 255, of each value (linf) or of all (l2); for "
        "the method normalised in the network's own units; chosen if absent",
    )
    momentum: float = Field(
        0.0, ge=0, le=2, description="share of earlier gradients in a step; 1 is usual, 0 is none"
    )
    confidence: float = Field(
        0.9,
        ge=0,
        le=0.9999,
        description="probability of the wrong class at which a picture is done",
    )
    fit: Fit = Field("squash", description="show the network the whole squashed, or the centre")
    noise: float = Field(
        1.0,
        ge=0,
        le=1,
        description="contrast of the noise to start from without a picture; 0: grey",
    )


def _work(params: FoolingImageParams, sizes: Sizes, model: VisionModel) -> Work:
    """Every step forward and back, a last look, and three to report: before, as PNG, as JPEG."""
    count = len(sizes.get("image", ())) or max(1, len(params.targets))
    pixels = model.input_size**2
    return Work((2 * params.steps + 4) * count, pixels, at_once=count * pixels)


@technique(
    "fooling-image",
    family="synthesis",
    runs="job",
    source=(
        "Goodfellow et al. 2014, Explaining and Harnessing Adversarial Examples, section 4; "
        "Kurakin et al. 2016 (I-FGSM); Madry et al. 2017 (PGD); Dong et al. 2018 (momentum); "
        "Nguyen et al. 2015 (from noise); CS231n, assignment 3 (normalised)"
    ),
    outputs={
        "picture": "the picture as the network sees it, changed; keep it as PNG",
        "difference": "the change, amplified, around grey",
        "animation": "original and changed picture in turn, the difference between them",
        "scores": "per picture: steps; change in levels of 255 (linf, l2) and SSIM; classes before "
        "and after; whether it fools the network read back from PNG, and from JPEG of quality 90",
    },
    work=_work,
)
def fooling_image(
    model: VisionModel,
    image: Annotated[
        tuple[Image, ...], "picture to change; noise if there is none", Count(0, MOST)
    ],
    params: FoolingImageParams,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Change pictures by hardly anything until the network takes them for something else.

    Each takes steps down its own loss until the network is sure of a wrong class. The network looks
    at pixels rounded to 8 bits, so that what is found is also true of the file; files that lose
    something, as JPEG does, may undo it. Without a picture it starts from noise, the same for every
    target, and nothing bounds the change.
    """
    _require_other_classes(model)
    bound = _bound(params, is_free=not image)
    is_normalised = params.method == "normalised"
    canvas = Perturbation(
        _start(model, image, params, generator),
        bound=bound,
        unit=model.scale * WHITE if is_normalised else 1.0,
    )
    originals = _images(canvas.start / WHITE)
    seen = [Seen.of(model, original) for original in originals]
    aim = _aim(model, params, seen)
    if params.method == "pgd" and image:
        canvas.scatter(generator)
    optimizer = _optimizer(canvas, params, bound)
    attack = Attack(model, canvas, aim, optimizer, by_score=is_normalised)
    trace = ascend(
        attack.loss,
        optimizer,
        steps=params.steps,
        progress=progress,
        preview=lambda: _images(canvas.pixels()[:1])[0],
        after=attack.after,
        is_over=attack.is_over,
        checkpoints=checkpoints,
    )
    targets = aim.classes.tolist() if params.targets else [None] * len(seen)
    steps = attack.steps().int().tolist()
    parts = zip(originals, _images(canvas.pixels()), seen, targets, steps, strict=True)
    foolings = [Fooling(*part) for part in parts]
    rows = scores(model, foolings)
    return Outcome(artifacts(foolings, rows), _facts(rows, params, bound, trace))


def _require_other_classes(model: VisionModel) -> None:
    if model.class_count == 1:
        raise InvalidParameter(
            f"{model.name} has one class, and a picture cannot be taken for another; choose a "
            "network of several",
            pointer="/params/model",
        )


def _start(
    model: VisionModel,
    images: Sequence[Image],
    params: FoolingImageParams,
    generator: torch.Generator,
) -> Tensor:
    """Return the pictures in the network's view `[N,3,S,S]`, or noise for each target."""
    if images:
        return torch.cat([model.frame(image, params.fit).pixels for image in images])
    side, count = model.input_size, max(1, len(params.targets))
    noise = torch.rand(1, 3, side, side, generator=generator) - 0.5
    return (0.5 + params.noise * noise).repeat(count, 1, 1, 1).to(model.device)


def _bound(params: FoolingImageParams, *, is_free: bool) -> Bound | None:
    """Return how far the pictures may be changed, None for as far as there are colours."""
    if params.norm == "linf" and params.epsilon is not None and params.epsilon > WHITE:
        raise InvalidParameter(
            f"epsilon is {params.epsilon:g}; with the norm linf it may be 1 to {WHITE}",
            pointer="/params/epsilon",
        )
    if params.epsilon is not None:
        return Bound(params.norm, params.epsilon)
    if is_free or params.method == "normalised":
        return None
    return Bound(params.norm, EPSILON[params.norm])


def _optimizer(
    canvas: Perturbation, params: FoolingImageParams, bound: Bound | None
) -> NormalisedAscent:
    by_length = params.method == "normalised" or params.norm == "l2"
    return NormalisedAscent(
        canvas.parameters,
        _step_size(params, bound),
        by="length" if by_length else "sign",
        momentum=params.momentum,
    )


def _step_size(params: FoolingImageParams, bound: Bound | None) -> float:
    """Return the length of a step: a share of the bound, where there is one."""
    if params.step_size is not None:
        return params.step_size
    if params.method == "normalised":
        return 1.0
    return FREE_STEP[params.norm] if bound is None else bound.epsilon / STEPS_ACROSS[params.norm]


def _aim(model: VisionModel, params: FoolingImageParams, seen: Sequence[Seen]) -> Aim:
    """Return the classes to be taken for, or those to leave."""
    classes = [model.check_class(t, model.class_count, pointer=TARGETS) for t in params.targets]
    if len(classes) not in (0, 1, len(seen)):
        raise InvalidParameter(
            f"there are {len(classes)} targets for {len(seen)} pictures; give one for all, one for "
            "each, or none",
            pointer=TARGETS,
        )
    if len(classes) == 1:
        classes *= len(seen)
    chosen = torch.tensor(classes or [one.index for one in seen], device=model.device)
    return Aim(chosen, bool(classes), params.confidence, model.scores)


def _images(pixels: Tensor) -> list[Image]:
    return [Image(picture) for picture in pixels.detach().cpu()]


def _facts(
    rows: Sequence[Mapping[str, Any]],
    params: FoolingImageParams,
    bound: Bound | None,
    trace: Trace,
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "pictures": len(rows),
        "hold_as_png": sum(row["holds_as_png"] for row in rows),
        "hold_as_jpeg": sum(row["holds_as_jpeg"] for row in rows),
        "norm": bound and bound.norm,
        "epsilon": bound and bound.epsilon,
        "step_size": _step_size(params, bound),
        "amplification": [row["amplification"] for row in rows],
        "steps": len(trace.losses),
        "settled": trace.settled,
        "warnings": [LOSSY],
    }
    if trace.losses:
        facts["loss"] = {"first": round(trace.losses[0], 6), "last": round(trace.losses[-1], 6)}
    return facts
