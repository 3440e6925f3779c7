"""Activation maximisation: a picture of what a class, a channel or a neuron looks for."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from lantern.artifact import Outcome, Table
from lantern.checkpoint import Checkpoints
from lantern.decoders.canvas import Codes
from lantern.decoders.library import Decoders
from lantern.decoders.network import LARGEST
from lantern.errors import InvalidParameter
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.goals import Goal, Goals, read
from lantern.optimize.objectives import alikeness
from lantern.optimize.parts import Few, by, summed
from lantern.optimize.regularize import alpha_norm
from lantern.optimize.transforms import Movement, moved, windows
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import technique
from lantern.relu_rule import waking
from lantern.techniques.canvases import (
    LOOKS,
    beside,
    canvas_of,
    decoder_of,
    is_diverse,
    looks_of,
    sheet_of,
    together,
)
from lantern.techniques.evidence import evidence, warnings_of
from lantern.techniques.recipe import Method, Recipe, optimizer_of, recipe_of, regulariser
from lantern.vision_model import VisionModel
from lantern.work import Sizes, Work

# What one run makes: pictures, and pixels of all of them.
MOST, MOST_PIXELS = 2048, 13_000_000


class ActivationMaximizationParams(Params):
    """What to look for, and what keeps the pictures natural."""

    objectives: tuple[Annotated[str, Field(min_length=1, max_length=400)], ...] = Field(
        ("class:88",),
        min_length=1,
        max_length=64,
        description=(
            "one picture for each: class:207, LAYER:CHANNEL, LAYER:CHANNEL@ROWxCOLUMN or @center, "
            "LAYER:12=0.8;40=-0.3 for a direction, LAYER for all of it, LAYER:* or LAYER:0..15 for "
            "a picture of each channel; sums as in class:207-0.5*class:281"
        ),
    )
    method: Method = Field(
        "fourier",
        description=(
            "fourier: frequencies and decorrelated colours under random movements; pixels: as in "
            "CS231n; yosinski: pixels with clipping; maco: only the phase of the spectrum is free; "
            "decoder: the features that a trained decoder draws from"
        ),
    )
    decoder: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description=(
            "decoder for the method decoder: the id of a train-decoder job, or on the command line "
            "its file"
        ),
    )
    steps: int = Field(256, ge=1, le=2000, description="most steps; fewer once it has settled")
    size: int = Field(
        192, ge=48, le=512, description="side of a picture", json_schema_extra={"unit": "px"}
    )
    variants: int = Field(1, ge=1, le=16, description="pictures of each objective")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="how strongly variants of an objective shun each other; needs two at least",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=100, description="length of a step; the method's own if absent"
    )
    l2: float | None = Field(
        None,
        ge=0,
        le=100,
        description=(
            "weight of distance from grey, or of a code from its mean; the method's own if absent"
        ),
    )
    jitter: float | None = Field(
        None,
        ge=0,
        le=64,
        description="largest shift before a look, of all methods but maco; the method's own if "
        "absent, as in what follows",
        json_schema_extra={"unit": "px"},
    )
    scale: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="largest change of size before a look, as a share, of all methods but maco",
    )
    rotate: float | None = Field(
        None,
        ge=0,
        le=45,
        description="largest turn before a look, of all methods but maco",
        json_schema_extra={"unit": "degrees"},
    )
    blur: float | None = Field(
        None,
        ge=0,
        le=8,
        description="sigma of the blur between steps, of pixels and yosinski",
        json_schema_extra={"unit": "px"},
    )
    blur_every: int | None = Field(
        None, ge=1, le=100, description="steps from one blur to the next, of pixels and yosinski"
    )
    norm_percentile: float | None = Field(
        None,
        ge=0,
        le=99,
        description="share of pixels nearest to grey that is made grey, of pixels and yosinski",
        json_schema_extra={"unit": "percent"},
    )
    contribution_percentile: float | None = Field(
        None,
        ge=0,
        le=99,
        description="share of pixels that contribute least, made grey, of pixels and yosinski",
        json_schema_extra={"unit": "percent"},
    )
    cosine_power: float = Field(
        0.0, ge=0, le=8, description="how much the angle to a direction counts beside its length"
    )


# Of MACO: the sides of a look at the start and the end, and its noise.
WIDE, NARROW, NOISE = 0.95, 0.4, 0.04
# Share of the steps in which they narrow, and what one must gain to go on.
NARROWS, GAIN = 0.75, 5e-3


def _work(params: ActivationMaximizationParams, sizes: Sizes, model: VisionModel) -> Work:
    _check(params)
    model.check_side(params.size)
    goals = _goals(params, model)
    pictures = len(goals) * params.variants
    looked_at = pictures * looks_of(params)
    # which decoder it is is not known yet; it draws, and back
    drawn = 2 * params.steps * pictures if params.method == "decoder" else 0
    return Work(
        2 * params.steps * looked_at,
        params.size**2,
        _layers(params, Goals(goals), model),
        at_once=min(looked_at, together(params, model)) * params.size**2,
        more=drawn * LARGEST.operations,
        beside=beside(params, pictures, model),
    )


@technique(
    "activation-maximization",
    title="Activation maximisation",
    family="synthesis",
    runs="job",
    source=(
        "Simonyan et al. 2013, arXiv:1312.6034, section 2; Yosinski et al. 2015, arXiv:1506.06579; "
        "Olah et al. 2017, Feature Visualization; Fel et al. 2023, arXiv:2306.06805; Nguyen et al. "
        "2016, arXiv:1605.09304 (decoder)"
    ),
    outputs={
        "pictures": "a picture for each objective",
        "scores": "how strongly each excites its objective, and how natural it is",
    },
    work=_work,
)
def activation_maximization(
    model: VisionModel,
    params: ActivationMaximizationParams,
    decoders: Decoders,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Make pictures that excite a class, a channel, a neuron or any mix of them.

    All pictures are made at once, as one batch, be they all channels of a layer. The table tells
    whether the network still sees the class after a blur (patterns that only a network sees do not
    survive it), and how much of the picture is fine grain. Units that noise leaves silent are woken
    in the first steps; of what stays silent the facts warn.
    """
    _check(params)
    chosen = _goals(params, model)
    wanted = [goal for goal in chosen for _ in range(params.variants)]
    recipe, looks = recipe_of(params), looks_of(params)
    decoder = decoder_of(params, decoders, model)
    canvas = canvas_of(params, len(wanted), generator, model.device, decoder)
    every = [goal for goal in wanted for _ in range(looks)]
    judges = {
        few: Goals(every[few.first : few.last], cosine_power=params.cosine_power)
        for few in by(together(params, model), len(wanted), looks)
    }
    layers = _layers(params, Goals(chosen), model)
    losses = torch.zeros(len(every), device=model.device)
    with model.quick(layers).capture(layers, pointer="/params/objectives") as features:

        def share(step: int, movements: Tensor, shares: Tensor, few: Few) -> Tensor:
            pixels = few.looks(canvas.draw(shares))
            looked_at = _look(pixels, few.drawn(movements), params, generator)
            with waking(step):  # the network alone, not what draws
                seen = features(looked_at)
            value = -judges[few].values(seen) / looks
            if recipe.l2:
                codes = few.looks(shares) if isinstance(canvas, Codes) else None
                value = value + recipe.l2 / looks * _lengths(pixels, codes)
            if is_diverse(params):
                likeness = alikeness(seen[model.cam_layer], params.variants, looks)
                value = value + params.diversity / looks * likeness.repeat_interleave(looks)
            few.drawn(losses).copy_(value.detach())
            return value.sum()

        def loss(step: int) -> Tensor:
            # a few are drawn, moved and looked at together: all at once would not be in bounds
            movements = _movements(params, recipe, step / params.steps, len(wanted), generator)
            return summed(partial(share, step, movements), canvas.parameters[0], list(judges))

        trace = ascend(
            loss,
            optimizer_of(canvas, params.method, recipe),
            steps=params.steps,
            progress=progress,
            preview=lambda: sheet_of(canvas, wanted).sheet(),
            after=regulariser(canvas, recipe),
            each=lambda: losses.view(-1, looks).sum(1),
            settled=_settled(params),
            checkpoints=checkpoints,
            generator=generator,
        )
    sheet = sheet_of(canvas, wanted)
    rows = evidence(model, wanted, sheet.images)
    facts: dict[str, Any] = {
        "steps": len(trace.losses),
        "settled": trace.settled,
        "recipe": recipe.facts(params.method),
        **({"warnings": warnings} if (warnings := warnings_of(wanted, rows)) else {}),
    }
    if decoder is not None:
        facts["decoder"] = {"layer": decoder.origin.layer, "sha256": decoder.digest}
    return Outcome((sheet, Table("scores", rows)), facts)


def _check(params: ActivationMaximizationParams) -> None:
    """Refuse what would do nothing."""
    recipe_of(params)
    if params.diversity > 0 and params.variants == 1:
        raise InvalidParameter(
            "one picture of an objective has none to shun: give two variants or more, or no "
            "diversity",
            pointer="/params/diversity",
        )


def _goals(params: ActivationMaximizationParams, model: VisionModel) -> tuple[Goal, ...]:
    """Read the objectives, of which there are not too many for one run."""
    goals = read(params.objectives, model, most=MOST // params.variants)
    pixels = len(goals) * params.variants * params.size**2
    if pixels > MOST_PIXELS:
        raise InvalidParameter(
            f"the pictures would have {pixels} pixels together; at most {MOST_PIXELS} are made in "
            "one run: choose a smaller size, or name fewer channels",
            pointer="/params/size",
        )
    return goals


def _settled(params: ActivationMaximizationParams) -> Settled:
    """Look for the end where looks no longer become harder."""
    if params.method == "maco":
        return Settled.behind(NARROWS, params.steps, gain=GAIN)
    return Settled(window=32, gain=GAIN)


def _layers(
    params: ActivationMaximizationParams, goals: Goals, model: VisionModel
) -> tuple[str, ...]:
    return (*goals.layers, *([model.cam_layer] if is_diverse(params) else []))


def _lengths(pixels: Tensor, codes: Tensor | None) -> Tensor:
    """Return the squared length of each code, else of a picture's doubled distances from grey."""
    if codes is not None:
        return codes.flatten(1).square().sum(1)
    return pixels[0].numel() * alpha_norm(pixels, alpha=2)


def _movements(
    params: ActivationMaximizationParams,
    recipe: Recipe,
    share: float,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw how pictures are moved before each look, at a share of the way."""
    if params.method == "maco":
        widest = WIDE + (NARROW - WIDE) * min(1.0, share / NARROWS) / 2
        return windows(count * LOOKS, (NARROW, widest), generator)
    movement = Movement(recipe.jitter, recipe.scale, recipe.rotate)
    return movement.draw(count, (params.size, params.size), generator)


def _look(
    pixels: Tensor,
    movements: Tensor,
    params: ActivationMaximizationParams,
    generator: torch.Generator,
) -> Tensor:
    seen = moved(pixels, movements, (params.size, params.size))
    if params.method != "maco":
        return seen
    # look by look, so that chance is the same however many pass together
    noise = torch.stack([torch.randn(one.shape, generator=generator) for one in seen])
    return seen + NOISE * noise.to(seen.device)
