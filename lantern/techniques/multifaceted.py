"""Multifaceted visualisation: the different kinds of picture that one class stands for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lantern.artifact import Grid, Outcome, Table
from lantern.checkpoint import Checkpoints
from lantern.collections.clusters import clusters, principal
from lantern.collections.collection import Entry
from lantern.collections.library import Collections
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.optimize.ascend import Settled, Trace, ascend
from lantern.optimize.goals import Goal, Goals, read_one
from lantern.optimize.optimizers import NormalisedAscent
from lantern.optimize.parametrize import Canvas, Fourier
from lantern.optimize.regularize import around_centre, total_variation
from lantern.optimize.transforms import Movement, moved
from lantern.params import Params
from lantern.progress import Looks, Progress
from lantern.registry import Count, technique
from lantern.techniques.evidence import evidence
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
# Components kept of the features; and pictures looked at together.
COMPONENTS, BATCH = 50, 16
# Longest side at which a given picture is checked, px: as large as pictures come.
LARGEST = 8192


def _work(params: MultifacetedParams, sizes: Sizes, model: VisionModel) -> Work:
    looked_at = len(sizes.get("image", ())) or params.looked_at
    ascent, looks = 2 * params.steps * params.facets, looked_at * model.input_size**2
    at_once = params.facets * params.size**2
    return Work(ascent + looks / params.size**2, params.size**2, (WHOLE,), at_once)


@dataclass(frozen=True)
class _Seen:
    """A picture as the network saw it: where it is had again, its features, its best class."""

    name: str
    read: Callable[[], Image]
    features: Tensor
    choice: int


@dataclass(frozen=True)
class _Facet:
    """Pictures that are alike, those nearest to the centre first, and the mean of the `nearest`."""

    members: tuple[str, ...]
    nearest: int
    mean: Tensor


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
    named = _named(model, params, image, collections)
    looks = Looks(progress, len(named), BATCH, params.steps)
    target, seen = _of_class(model, params, layer, named, looks, is_given=bool(image))
    goal = read_one(params.objective or f"class:{target}", model, pointer="/params/objective")
    facets = _facets(seen, model, params, generator)
    means = torch.stack([facet.mean for facet in facets])
    canvas = Fourier(means.to(model.device))
    trace = _ascend(model, goal, canvas, params, looks, generator, checkpoints)
    sheet = _sheet(means, canvas, facets, goal)
    made = sheet.images[len(means) :]
    rows, likeness = _judged(model, target, goal, facets, made, layer)
    facts = {
        "class": {"index": target, "label": model.label(target)},
        "pictures": {"from": "image" if image else "collection", "count": len(seen)},
        "feature_cosine": likeness,
        "layer": layer,
        "steps": len(trace.losses),
        "settled": trace.settled,
    }
    return Outcome((sheet, Table("scores", rows)), facts)


# --- Facets ------------------------------------------------------------------------------------


def _named(
    model: VisionModel,
    params: MultifacetedParams,
    image: Sequence[Image],
    collections: Collections,
) -> list[tuple[str, Callable[[], Image]]]:
    """Return the pictures to look at, by name."""
    if params.target is not None:
        model.check_class(params.target, model.class_count)
    for picture in image:
        model.fit(picture, LARGEST)
    if image:
        return [(f"image-{n}", _given(picture)) for n, picture in enumerate(image, start=1)]
    return _listed(params, collections)


def _of_class(
    model: VisionModel,
    params: MultifacetedParams,
    layer: str,
    named: Sequence[tuple[str, Callable[[], Image]]],
    looks: Looks,
    *,
    is_given: bool,
) -> tuple[int, list[_Seen]]:
    """Choose the class and return the pictures that stand for it."""
    seen = _look(model, layer, named, looks)
    counts = Counter(picture.choice for picture in seen)
    target = params.target if params.target is not None else counts.most_common(1)[0][0]
    if not is_given and not params.folder:
        seen = [picture for picture in seen if picture.choice == target]
    if not seen:
        raise _not_found(model, target, counts)
    return target, seen


def _given(picture: Image) -> Callable[[], Image]:
    return lambda: picture


def _listed(
    params: MultifacetedParams, collections: Collections
) -> list[tuple[str, Callable[[], Image]]]:
    collection = collections.find(params.collection)
    folder = params.folder.strip("/")
    entries = [e for e in collection if not folder or f"{e.folder}/".startswith(f"{folder}/")]
    if not entries:
        folders = sorted({entry.folder for entry in collection if entry.folder})
        shown = ", ".join(folders[:24]) or "none"
        raise InvalidParameter(
            f"there is no such folder in the collection; its folders are: {shown}",
            pointer="/params/folder",
        )
    count = min(len(entries), params.looked_at)
    return [
        (entry.name, _kept(entry))
        for entry in (entries[n * len(entries) // count] for n in range(count))
    ]


def _kept(entry: Entry) -> Callable[[], Image]:
    # an entry keeps its picture; it is made anew so that a thousand of them are not in memory
    return lambda: Entry(entry.name, lambda _: entry.read()).image


@torch.inference_mode()
def _look(
    model: VisionModel,
    layer: str,
    named: Sequence[tuple[str, Callable[[], Image]]],
    looks: Looks,
) -> list[_Seen]:
    """Look at every picture; features are the layer's means over all positions."""
    seen: list[_Seen] = []
    with model.capture([layer, LOGITS]) as features:
        for at in range(0, len(named), BATCH):
            batch = named[at : at + BATCH]
            found = features(torch.cat([model.frame(read(), "crop").pixels for _, read in batch]))
            pooled, choices = _pooled(found[layer]).cpu(), found[LOGITS].argmax(1).tolist()
            for (name, read), vector, choice in zip(batch, pooled, choices, strict=True):
                seen.append(_Seen(name, read, vector.clone(), choice))
            looks.looked(at, named[at][1])
    return seen


def _pooled(activation: Tensor) -> Tensor:
    return activation if activation.dim() == 2 else activation.flatten(2).mean(2)


def _not_found(model: VisionModel, target: int, counts: Counter[int]) -> InvalidParameter:
    found = ", ".join(f"{c} ({model.label(c)}, {n})" for c, n in counts.most_common(8))
    return InvalidParameter(
        f"no picture of the collection is put into the class {target}; they are put into {found}: "
        "choose one of these, name a folder, or send pictures",
        pointer="/params/target",
    )


def _facets(
    seen: Sequence[_Seen],
    model: VisionModel,
    params: MultifacetedParams,
    generator: torch.Generator,
) -> list[_Facet]:
    """Group pictures by their features.

    The paper lays the 50 components out in two dimensions by t-SNE and groups what it sees there;
    here the components themselves are grouped, whose distances mean the same everywhere.
    """
    points = principal(torch.stack([picture.features for picture in seen]), COMPONENTS)
    facets = []
    for places in clusters(points, params.facets, generator):
        members = [seen[place] for place in places.tolist()]
        nearest = [_square(model, one.read(), params.size) for one in members[: params.nearest]]
        names = tuple(one.name for one in members)
        facets.append(_Facet(names, len(nearest), torch.stack(nearest).mean(0)))
    return facets


def _square(model: VisionModel, picture: Image, size: int) -> Tensor:
    """Return what the network saw of a picture, `[3,size,size]`."""
    return Image(model.frame(picture, "crop").pixels[0].cpu()).resize(size, size).pixels


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
            return -goals.values(seen).sum() + params.tv_weight * 1e-3 * rough.sum()

        return ascend(
            loss,
            NormalisedAscent(canvas.parameters, params.learning_rate, by="length"),
            steps=params.steps,
            progress=looks.progress,
            span=looks.span,
            preview=lambda: Image(_pictures(canvas)[0]),
            after=lambda step: canvas.project(),
            # what counts changes until the weight is at its widest
            settled=Settled(window=32, gain=5e-3, least=math.ceil(WIDENS * params.steps) + 64),
            checkpoints=checkpoints,
            generator=generator,
        )


def _pictures(canvas: Canvas) -> Tensor:
    with torch.no_grad():
        return canvas.pixels().clamp(0, 1).cpu()


# --- Judgement ---------------------------------------------------------------------------------


def _sheet(means: Tensor, canvas: Canvas, facets: Sequence[_Facet], goal: Goal) -> Grid:
    means_of = [f"mean of {facet.nearest} of {len(facet.members)}" for facet in facets]
    captions = means_of + [goal.text] * len(facets)
    return Grid("facets", torch.cat([means, _pictures(canvas)]), len(facets), tuple(captions))


@torch.inference_mode()
def _judged(
    model: VisionModel,
    target: int,
    goal: Goal,
    facets: Sequence[_Facet],
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
    return rows, mean_cosine(_pooled(seen[layer]))


def mean_cosine(features: Tensor) -> float | None:
    """Return the mean cosine of all pairs of features `[N,C]`, None if there is no pair."""
    count = len(features)
    if count < 2:
        return None
    unit = F.normalize(features, dim=1)
    total = (unit @ unit.T).sum() - count
    return round(float(total) / (count * (count - 1)), 4)
