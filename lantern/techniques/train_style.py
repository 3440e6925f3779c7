"""Learning a painting's style: a hand of the shared network, or a network of its own."""

from __future__ import annotations

import copy
import json
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lantern import samples
from lantern.artifact import Outcome, Picture, Weights
from lantern.checkpoint import Checkpoints
from lantern.collections.collection import Collection, spread
from lantern.collections.library import Collections
from lantern.image import Image, covering
from lantern.progress import Progress
from lantern.registry import technique
from lantern.styles.library import StyleLibrary
from lantern.styles.loss import PaintingLossParams
from lantern.styles.network import StyleNetwork
from lantern.styles.train import Learnt, Lesson, Photographs, learn, paint_preview, small
from lantern.styles.trained import hand_weights, network_weights
from lantern.styles.work import operations, tape
from lantern.vision_model import VisionModel
from lantern.work import WHOLE, Sizes, Work

Way = Literal["quick", "thorough"]


class TrainStyleParams(PaintingLossParams):
    """What is learnt, and for how long."""

    way: Way = Field(
        "quick",
        description="quick: only the painting's own scales and shifts of the network that many "
        "styles share, which can be mixed; thorough: a network of its own",
    )
    title: str = Field("", max_length=80, description="what the style is called in lists")
    collection: str = Field(
        "samples", min_length=1, max_length=64, description="photographs to practise on"
    )
    steps: int | None = Field(
        None,
        ge=1,
        le=20_000,
        description="steps; 120 for the quick way and 800 for the thorough one if absent",
    )
    batch: int = Field(2, ge=1, le=16, description="photographs at each step")
    crop: int = Field(
        192,
        ge=64,
        le=512,
        multiple_of=4,
        description="side of the photographs' crops",
        json_schema_extra={"unit": "px"},
    )
    style_size: int = Field(
        256,
        ge=64,
        le=1024,
        description="short side of the painting: its strokes are learnt as large as they are then",
        json_schema_extra={"unit": "px"},
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Adam's highest rate; 0.05 for the quick way and 0.002 for the thorough one if "
        "absent",
    )


USUAL: dict[Way, tuple[int, float]] = {"quick": (120, 0.05), "thorough": (800, 0.002)}
# Photographs of a collection that are practised on, evenly spread over it.
MOST_PHOTOS = 256


def _work(params: TrainStyleParams, sizes: Sizes, model: VisionModel) -> Work:
    own = model.input_size
    covered = [covering(size, params.style_size) for size in sizes.get("style", ())]
    model.check_sizes(
        [(params.crop, params.crop), *covered],
        f"choose crop={own} and style_size={own}, and send a square painting, or choose another "
        "network",
        pointer="/params/crop",
    )
    # a network looks at each photograph and at what is painted of it, and back from the latter
    painted = (params.steps or USUAL[params.way][0]) * params.batch
    layers = (*model.style_layers, *model.content_layers) or (WHOLE,)
    return Work(
        3 * painted,
        params.crop**2,
        layers,
        at_once=params.batch * params.crop**2,
        more=3 * painted * params.crop**2 * operations(),
        beside=params.batch * params.crop**2 * tape(),
    )


@technique(
    "train-style",
    title="Learn a painting's style",
    family="stylization",
    runs="job",
    source=(
        "Dumoulin et al. 2017, A Learned Representation for Artistic Style, arXiv:1610.07629, "
        "section 3.2, for the quick way; Johnson et al. 2016, arXiv:1603.08155, for the thorough "
        "one"
    ),
    outputs={
        "preview": "a photograph painted in the new style",
        "style": "the style, a safetensors file",
    },
    keeps_shape=False,
    work=_work,
)
def train_style(
    model: VisionModel,
    styles: StyleLibrary,
    style: Annotated[Image, "painting whose style is learnt"],
    image: Annotated[Image | None, "photograph the previews show; a cat if there is none"],
    params: TrainStyleParams,
    collections: Collections,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Outcome:
    """Learn the style of a painting; a finished job's style is listed and painted in at once.

    Learning begins with the hand that `arbitrary-style` would paint in. The network chosen judges
    what is painted: by its features' statistics, and by what is left of the photograph. The
    thorough way changes every weight: some four minutes on two cores, and it cannot be mixed.
    """
    collection = collections.find(params.collection)
    steps, rate = USUAL[params.way]
    lesson = Lesson(
        style.cover(params.style_size), Photographs(_photos(collection, params.crop), params.crop),
        model, params, params.steps or steps, params.batch, params.learning_rate or rate,
    )  # fmt: skip
    shown = image or _shown(collection)
    shared, start = styles.shared(), styles.hand_of(style)
    network = copy.deepcopy(shared.network).to(model.device)  # others paint with theirs meanwhile
    hand: Tensor | None = None
    if params.way == "quick":
        hand = nn.Parameter(start.to(model.device, copy=True))
    else:
        network.take(start.to(model.device))
        network.train().requires_grad_(True)
    learnt = _learn(lesson, network, hand, shown, progress, generator, checkpoints)
    network, hand = _rounded(network, hand)
    facts = {"way": params.way, "judge": model.name, **learnt.facts()}
    said = facts | {"params": params.model_dump(mode="json")}
    kept = _written(network, hand, shared.trunk, said)
    return Outcome((Picture("preview", paint_preview(network, hand, shown)), kept), facts)


def _learn(
    lesson: Lesson,
    network: StyleNetwork,
    hand: Tensor | None,
    shown: Image,
    progress: Progress,
    generator: torch.Generator,
    checkpoints: Checkpoints,
) -> Learnt:
    def paint(photos: Tensor) -> Tensor:
        hands = None if hand is None else hand.expand(len(photos), -1)
        out: Tensor = network(photos, hands)
        return out

    return learn(
        lesson,
        paint,
        network.parameters() if hand is None else [hand],
        progress=progress,
        preview=lambda: paint_preview(*_rounded(network, hand), shown),
        generator=generator,
        checkpoints=checkpoints,
    )


def _written(
    network: StyleNetwork, hand: Tensor | None, trunk: str, facts: dict[str, Any]
) -> Weights:
    said = {"facts": json.dumps(facts, sort_keys=True)}
    if hand is None:
        return network_weights("style", network, said)
    return hand_weights("style", hand, trunk, said)


def _photos(collection: Collection, crop: int) -> list[Any]:
    places = spread(len(collection), min(len(collection), MOST_PHOTOS))
    return [small(collection.entry(place).image, 2 * crop) for place in places]


def _shown(collection: Collection) -> Image:
    path = samples.photographs().get("cat")
    return collection.entry(0).image if path is None else Image.decode(path.read_bytes())


def _rounded(network: StyleNetwork, hand: Tensor | None) -> tuple[StyleNetwork, Tensor | None]:
    """Return what the file will hold, so that what is shown is what it paints."""
    if hand is not None:
        return network, hand.detach().half().float()
    rounded = copy.deepcopy(network).eval().requires_grad_(False)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.half().float())
    return rounded, None
