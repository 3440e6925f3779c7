"""Pictures of one class in groups of those that are alike: the facets of the class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lantern.collections.clusters import clusters, principal
from lantern.collections.collection import Entry, spread
from lantern.collections.library import Collections
from lantern.errors import InvalidParameter
from lantern.image import Image
from lantern.progress import Looks
from lantern.vision_model import LOGITS, VisionModel

if TYPE_CHECKING:
    from lantern.techniques.multifaceted import MultifacetedParams

# Components kept of the features; and pictures looked at together.
COMPONENTS, BATCH = 50, 16
# Longest side at which a given picture is checked, px: as large as pictures come.
LARGEST = 8192


@dataclass(frozen=True)
class Seen:
    """A picture as the network saw it: where it is had again, its features, its best class."""

    name: str
    read: Callable[[], Image]
    features: Tensor
    choice: int


@dataclass(frozen=True)
class Facet:
    """Pictures that are alike, those nearest to the centre first, and the mean of the `nearest`."""

    members: tuple[str, ...]
    nearest: int
    mean: Tensor


def named_pictures(
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


def of_class(
    model: VisionModel,
    params: MultifacetedParams,
    layer: str,
    named: Sequence[tuple[str, Callable[[], Image]]],
    looks: Looks,
    *,
    is_given: bool,
) -> tuple[int, list[Seen]]:
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
    chosen = (entries[place] for place in spread(len(entries), count))
    return [(entry.name, _kept(entry)) for entry in chosen]


def _kept(entry: Entry) -> Callable[[], Image]:
    # an entry keeps its picture; it is made anew so that a thousand of them are not in memory
    return lambda: Entry(entry.name, lambda _: entry.read()).image


@torch.inference_mode()
def _look(
    model: VisionModel,
    layer: str,
    named: Sequence[tuple[str, Callable[[], Image]]],
    looks: Looks,
) -> list[Seen]:
    """Look at every picture; features are the layer's means over all positions."""
    seen: list[Seen] = []
    with model.capture([layer, LOGITS]) as features:
        for at in range(0, len(named), BATCH):
            batch = named[at : at + BATCH]
            found = features(torch.cat([model.frame(read(), "crop").pixels for _, read in batch]))
            vectors, choices = pooled(found[layer]).cpu(), found[LOGITS].argmax(1).tolist()
            for (name, read), vector, choice in zip(batch, vectors, choices, strict=True):
                seen.append(Seen(name, read, vector.clone(), choice))
            looks.looked(at, named[at][1])
    return seen


def pooled(activation: Tensor) -> Tensor:
    """Return the mean of features over all positions, `[N,C]`."""
    return activation if activation.dim() == 2 else activation.flatten(2).mean(2)


def _not_found(model: VisionModel, target: int, counts: Counter[int]) -> InvalidParameter:
    found = ", ".join(f"{c} ({model.label(c)}, {n})" for c, n in counts.most_common(8))
    return InvalidParameter(
        f"no picture of the collection is put into the class {target}; they are put into {found}: "
        "choose one of these, name a folder, or send pictures",
        pointer="/params/target",
    )


def facets_of(
    seen: Sequence[Seen],
    model: VisionModel,
    params: MultifacetedParams,
    generator: torch.Generator,
) -> list[Facet]:
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
        facets.append(Facet(names, len(nearest), torch.stack(nearest).mean(0)))
    return facets


def _square(model: VisionModel, picture: Image, size: int) -> Tensor:
    """Return what the network saw of a picture, `[3,size,size]`."""
    return Image(model.frame(picture, "crop").pixels[0].cpu()).resize(size, size).pixels
