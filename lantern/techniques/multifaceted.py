"""Multifaceted visualisation: the different kinds of picture that one class stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Outcome, Table
from lantern.checkpoint import Checkpoints
from lantern.collections.library import Collections
from lantern.image import Image
from lantern.looks import Looks
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.optimize.goals import Goal, Goals, read_one
from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.parametrize import Canvas, Fourier
from lantern.optimize.regularize import around_centre, total_variation
from lantern.optimize.transforms import Movement, moved
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, technique
from lantern.techniques.evidence import evidence
from lantern.techniques.facets import BATCH, Facet, grouped, named_pictures, pooled
from lantern.vision_model import LOGITS, VisionModel
from lantern.work import WHOLE, Sizes, Work


class MultifacetedParams(Params):
    """Which pictures, how many facets, and how they are made."""

    collection: str = Field(
        "samples",
        min_length=1,
        max_length=64,
        description="pictures to find facets in, where none are given as image",
    )
    target: int | None = Field(
        None,
        ge=0,
        le=99_999,
        description="class; the one most of the pictures are put into if absent",
    )
    folder: str = Field(
        "",
        max_length=200,
        description=(
            "folder of the collection whose pictures are taken, whatever the network says of "
            "them; if empty, the pictures that the network puts into the class"
        ),
    )
    objective: str = Field(
        "",
        max_length=400,
        description="what each facet is made to excite, as in layer:12; the class if empty",
    )
    layer: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="layer by whose features pictures are alike; the network's own if absent",
    )
    facets: int = Field(4, ge=1, le=16, description="most facets; never more than pictures")
    nearest: int = Field(
        15, ge=1, le=64, description="pictures nearest to a facet's centre whose mean it begins as"
    )
    looked_at: int = Field(
        512, ge=1, le=4096, description="most pictures of the collection, evenly spread over it"
    )
    steps: int = Field(200, ge=1, le=2000, description="most steps; fewer once it has settled")
    size: int = Field(
        192, ge=48, le=512, description="side of a picture", json_schema_extra={"unit": "px"}
    )
    learning_rate: float = Field(0.4, gt=0, le=100, description="length of a step")
    tv_weight: float = Field(1.0, ge=0, le=1e4, description="weight of the smoothness of pixels")
    jitter: float = Field(
        8.0,
        ge=0,
        le=64,
        description="largest shift before a look",
        json_schema_extra={"unit": "px"},
    )
    center: float = Field(
        0.15,
        ge=0.02,
        le=2,
        description="sigma of the weight around the centre at the first step, as a share of a side",
    )
    center_end: float = Field(
        0.5, ge=0.02, le=2, description="the same from three quarters of the steps on"
    )


# Share of the steps in which the weight around the centre widens.
WIDENS = 0.75


def _work(params: MultifacetedParams, sizes: Sizes, model: VisionModel) -> Work:
    model.check_side(params.size)
    looked_at = len(sizes.get("image", ())) or params.looked_at
    ascent, looks = 2 * params.steps * params.facets, looked_at * model.input_size**2
    at_once = params.facets * params.size**2
    return Work(ascent + looks / params.size**2, params.size**2, (WHOLE,), at_once)


@technique(
    "multifaceted",
    title="Multifaceted visualisation",
    family="synthesis",
    runs="job",
    source="Nguyen et al. 2016, Multifaceted Feature Visualization, arXiv:1602.03616, section 2",
    outputs={
        "facets": "the mean of each facet's pictures, above what it became",
        "scores": "the pictures of each facet, and what the network sees in the result",
    },
    work=_work,
)
def multifaceted(
    model: VisionModel,
    image: Annotated[
        tuple[Image, ...], "pictures of one class, in place of a collection", Count(0, 64)
    ],
    params: MultifacetedParams,
    collections: Collections,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Show the different kinds of picture that a class stands for, one picture for each kind.

    Pictures of the class are grouped by what the network sees in them. Each group's mean is where
    an ascent of the class score begins, which works on the centre first and ever further out.
    """
    layer = params.layer or model.cam_layer
    named = named_pictures(model, params, image, collections)
    looks = Looks(progress, checkpoints, len(named), BATCH, params.steps)
    target, facets = grouped(model, params, layer, named, looks, generator, is_given=bool(image))
    goal = read_one(params.objective or f"class:{target}", model, pointer="/params/objective")
    means = torch.stack([facet.mean for facet in facets])
    canvas = Fourier(means.to(model.device))
    trace = _ascend(model, goal, canvas, params, looks, generator, checkpoints)
    sheet = _sheet(means, canvas, facets, goal)
    made = sheet.images[len(means) :]
    rows, likeness = _judged(model, target, goal, facets, made, layer)
    count = sum(len(facet.members) for facet in facets)
    facts = {
        "class": {"index": target, "label": model.label(target)},
        "pictures": {"from": "image" if image else "collection", "count": count},
        "feature_cosine": likeness,
        "layer": layer,
        "steps": len(trace.losses),
        "settled": trace.settled,
    }
    return Outcome((sheet, Table("scores", rows)), facts)


# --- Ascent ------------------------------------------------------------------------------------


def _ascend(
    model: VisionModel,
    goal: Goal,
    canvas: Canvas,
    params: MultifacetedParams,
    looks: Looks,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Trace:
    count = len(canvas.parameters[0])
    goals, size = Goals([goal] * count), (params.size, params.size)
    each = torch.zeros(count, device=model.device)
    movement = Movement(params.jitter)
    layers = list(goals.layers)
    with model.quick(layers).capture(layers, pointer="/params/objective") as features:

        def loss(step: int) -> Tensor:
            share = min(1.0, step / max(1.0, WIDENS * (params.steps - 1)))
            sigma = params.center + (params.center_end - params.center) * share
            weight = around_centre(params.size, sigma).to(model.device)
            pixels = canvas.pixels()
            # the same pictures, whose gradient counts by the distance from the centre
            weighed = pixels * weight + pixels.detach() * (1 - weight)
            seen = features(moved(weighed, movement.draw(count, size, generator), size))
            rough = total_variation(weighed) * params.size**2
            losses = -goals.values(seen) + params.tv_weight * 1e-3 * rough
            each.copy_(losses.detach())
            return losses.sum()

        return ascend(
            loss,
            NormalisedAscent(canvas.parameters, params.learning_rate, by="length"),
            steps=params.steps,
            progress=looks.progress,
            span=looks.span,
            preview=lambda: Image(_pictures(canvas)[0]),
            after=lambda step: canvas.project(),
            each=lambda: each,
            settled=Settled.behind(WIDENS, params.steps, gain=5e-3),
            checkpoints=checkpoints,
            generator=generator,
        )


def _pictures(canvas: Canvas) -> Tensor:
    with torch.no_grad():
        return canvas.pixels().clamp(0, 1).cpu()


# --- Judgement ---------------------------------------------------------------------------------


def _sheet(means: Tensor, canvas: Canvas, facets: Sequence[Facet], goal: Goal) -> Grid:
    means_of = [f"mean of {facet.nearest} of {len(facet.members)}" for facet in facets]
    captions = means_of + [goal.text] * len(facets)
    return Grid("facets", torch.cat([means, _pictures(canvas)]), len(facets), tuple(captions))


@torch.inference_mode()
def _judged(
    model: VisionModel,
    target: int,
    goal: Goal,
    facets: Sequence[Facet],
    made: Tensor,
    layer: str,
) -> tuple[tuple[dict[str, Any], ...], float | None]:
    """Return a row for each facet, and how alike the results' features are, as a mean cosine."""
    with model.capture([layer, LOGITS]) as features:
        seen = features(made.to(model.device))
    places = (seen[LOGITS] > seen[LOGITS][:, target, None]).sum(1) + 1
    rows = tuple(
        {
            "facet": number,
            "pictures": len(facet.members),
            "members": ", ".join(facet.members),
            **row,
            "place": int(place),
        }
        for number, (facet, row, place) in enumerate(
            zip(facets, evidence(model, [goal] * len(made), made), places, strict=True), start=1
        )
    )
    return rows, mean_cosine(pooled(seen[layer]))


def mean_cosine(features: Tensor) -> float | None:
    """Return the mean cosine of all pairs of features `[N,C]`, None if there is no pair."""
    count = len(features)
    if count < 2:
        return None
    unit = F.normalize(features, dim=1)
    total = (unit @ unit.T).sum() - count
    return round(float(total) / (count * (count - 1)), 4)
