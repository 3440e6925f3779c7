"""Activation maximisation: a picture of what a class, a channel or a neuron looks for."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Outcome, Table
from lantern.checkpoint import Checkpoints
from lantern.decoders.canvas import Codes
from lantern.decoders.decoder import POINTER, Decoder
from lantern.decoders.library import Decoders
from lantern.errors import InvalidParameter
from lantern.optimize.ascend import Settled, ascend
from lantern.optimize.goals import Goal, Goals, read
from lantern.optimize.objectives import gram
from lantern.optimize.parametrize import Canvas, Fourier, Phase, Pixels
from lantern.optimize.parts import Few, by, summed
from lantern.optimize.regularize import alpha_norm
from lantern.optimize.transforms import Movement, moved, windows
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import technique
from lantern.relu_rule import waking
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


# Of MACO: looks at each picture at every step, and the sides of a look at the start and the end.
LOOKS, WIDE, NARROW, NOISE = 4, 0.95, 0.4, 0.04
# Share of the steps in which they narrow, and what one must gain to go on.
NARROWS, GAIN = 0.75, 5e-3


def _work(params: ActivationMaximizationParams, sizes: Sizes, model: VisionModel) -> Work:
    _check(params)
    looks = _looks(params)
    goals = _goals(params, model)
    looked_at = len(goals) * params.variants * looks
    return Work(
        2 * params.steps * looked_at,
        params.size**2,
        _layers(params, Goals(goals), model),
        at_once=min(looked_at, _together(params, model)) * params.size**2,
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
    recipe, looks = recipe_of(params), _looks(params)
    decoder = _decoder(params, decoders, model)
    canvas = _canvas(params, len(wanted), generator, model.device, decoder)
    every = [goal for goal in wanted for _ in range(looks)]
    judges = {
        few: Goals(every[few.first : few.last], cosine_power=params.cosine_power)
        for few in by(_together(params, model), len(every))
    }
    layers = _layers(params, Goals(chosen), model)
    losses, each = (torch.zeros(len(of), device=model.device) for of in (every, wanted))
    with model.quick(layers).capture(layers, pointer="/params/objectives") as features:

        def share(pixels: Tensor, few: Few) -> Tensor:
            seen = features(pixels)
            value = -judges[few].values(seen) / looks
            if _is_diverse(params):
                likeness = _likeness(seen[model.cam_layer], params.variants, looks)
                value = value + params.diversity * likeness.repeat_interleave(looks) / looks
            few.of(losses).copy_(value.detach())
            return value.sum()

        def loss(step: int) -> Tensor:
            pixels = canvas.pixels()
            looked_at = _look(pixels, params, recipe, step / params.steps, generator)
            with waking(step):
                value = summed(share, looked_at, list(judges))
            each.copy_(losses.view(-1, looks).sum(1))
            if not recipe.l2:
                return value
            far = recipe.l2 * _lengths(canvas, pixels)
            each.add_(far.detach())
            return value + far.sum()

        trace = ascend(
            loss,
            optimizer_of(canvas, params.method, recipe),
            steps=params.steps,
            progress=progress,
            preview=lambda: _sheet(canvas, wanted).sheet(),
            after=regulariser(canvas, recipe),
            each=lambda: each,
            settled=_settled(params),
            checkpoints=checkpoints,
            generator=generator,
        )
    sheet = _sheet(canvas, wanted)
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


def _looks(params: ActivationMaximizationParams) -> int:
    """Return how often each picture is looked at in a step."""
    return LOOKS if params.method == "maco" else 1


def _settled(params: ActivationMaximizationParams) -> Settled:
    """Look for the end where looks no longer become harder."""
    if params.method == "maco":
        return Settled.behind(NARROWS, params.steps, gain=GAIN)
    return Settled(window=32, gain=GAIN)


def _is_diverse(params: ActivationMaximizationParams) -> bool:
    return params.diversity > 0 and params.variants > 1


def _together(params: ActivationMaximizationParams, model: VisionModel) -> int:
    """Return how many looks pass together; variants that shun each other are not parted."""
    whole = params.variants * _looks(params) if _is_diverse(params) else 1
    return whole * max(1, model.together(params.size) // whole)


def _layers(
    params: ActivationMaximizationParams, goals: Goals, model: VisionModel
) -> tuple[str, ...]:
    return (*goals.layers, *([model.cam_layer] if _is_diverse(params) else []))


def _decoder(
    params: ActivationMaximizationParams, decoders: Decoders, model: VisionModel
) -> Decoder | None:
    """Find the decoder of the method that needs one, trained on this very network."""
    if params.method != "decoder" and params.decoder is None:
        return None
    if params.method != "decoder" or params.decoder is None:
        raise InvalidParameter(
            "the method decoder and the parameter decoder go together: give both, or neither",
            pointer=POINTER,
        )
    decoder = decoders.find(params.decoder)
    decoder.check(model)
    return decoder.to(model.device)


def _canvas(
    params: ActivationMaximizationParams,
    count: int,
    generator: torch.Generator,
    device: torch.device,
    decoder: Decoder | None,
) -> Canvas:
    shape = (count, 3, params.size, params.size)
    if decoder is not None:
        return Codes(decoder, count, params.size, generator)
    if params.method == "fourier":
        return Fourier.noise(shape, generator).to(device)
    if params.method == "maco":
        return Phase(shape, generator, device)
    noise = torch.randn(shape, generator=generator)
    return Pixels((0.5 + 0.1 * noise).clamp(0, 1).to(device))


def _lengths(canvas: Canvas, pixels: Tensor) -> Tensor:
    """Return the squared length of each code, or of a picture's doubled distances from grey."""
    if isinstance(canvas, Codes):
        return canvas.parameters[0].flatten(1).square().sum(1)
    return pixels[0].numel() * alpha_norm(pixels, alpha=2)


def _look(
    pixels: Tensor,
    params: ActivationMaximizationParams,
    recipe: Recipe,
    share: float,
    generator: torch.Generator,
) -> Tensor:
    size = (params.size, params.size)
    if params.method == "maco":
        widest = WIDE + (NARROW - WIDE) * min(1.0, share / NARROWS) / 2
        boxes = windows(len(pixels) * LOOKS, (NARROW, widest), generator)
        seen = moved(pixels.repeat_interleave(LOOKS, 0), boxes, size)
        return seen + NOISE * torch.randn(seen.shape, generator=generator).to(seen.device)
    movement = Movement(recipe.jitter, recipe.scale, recipe.rotate)
    return moved(pixels, movement.draw(len(pixels), size, generator), size)


def _likeness(activation: Tensor, variants: int, looks: int) -> Tensor:
    """Return the mean cosine of the Gram matrices of a picture and its other variants, `[N]`.

    Of several looks at a picture, one after the other in the batch, the mean counts.

    Source: Olah et al. 2017, "Feature Visualization", diversity.
    """
    flat = gram(activation).view(-1, looks, activation.shape[1] ** 2).mean(1)
    unit = F.normalize(flat, dim=1).view(-1, variants, flat.shape[1])
    likeness = torch.bmm(unit, unit.transpose(1, 2))
    others = 1 - torch.eye(variants, device=activation.device)
    return (likeness * others).sum(2).flatten() / max(1, variants - 1)


def _sheet(canvas: Canvas, wanted: list[Goal]) -> Grid:
    with torch.no_grad():
        pictures = canvas.pixels().clamp(0, 1).cpu()
    columns = max(1, round(len(pictures) ** 0.5 + 0.49))
    captions = tuple(goal.text for goal in wanted) if len(wanted) > 1 else ()
    return Grid("pictures", pictures, columns, captions)
