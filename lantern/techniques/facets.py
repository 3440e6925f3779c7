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
from lantern.looks import Looks
from lantern.vision_model import LOGITS, VisionModel

if TYPE_CHECKING:
    from lantern.techniques.multifaceted import MultifacetedParams

# Components kept of the features; and pictures looked at together.
COMPONENTS, BATCH = 50, 16
# Longest side at which a given picture is checked, px: as large as pictures come.
LARGEST = 8192


Named = Sequence[tuple[str, Callable[[], Image]]]
"""Pictures by name, and where each is had again."""


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
) -> Named:
    """Return the pictures to look at, by name."""
    if params.target is not None:
        model.check_class(params.target, model.class_count)
    for picture in image:
        model.fit(picture, LARGEST)
    if image:
        return [(f"image-{n}", _given(picture)) for n, picture in enumerate(image, start=1)]
    return _listed(params, collections)


def grouped(
    model: VisionModel,
    params: MultifacetedParams,
    layer: str,
    named: Named,
    looks: Looks,
    generator: torch.Generator,
    *,
    is_given: bool,
) -> tuple[int, list[Facet]]:
    """Choose the class, and group the pictures that stand for it.

    How they are grouped is kept: a run that goes on behind it looks at none but the `nearest`.
    """

    def make() -> dict[str, Tensor]:
        found = _look(model, layer, named, looks)
        target, places = _of_class(model, params, found["choices"], is_given=is_given)
        groups = _groups(found["features"][places], params, generator)
        return {
            "class": torch.tensor(target),
            "places": torch.cat([places[group] for group in groups]),
            "counts": torch.tensor([len(group) for group in groups]),
        }

    kept = looks.checkpoints.remember_all(["class", "places", "counts"], make)
    groups = torch.split(kept["places"], kept["counts"].tolist())
    facets = [_facet(model, params, [named[place] for place in group]) for group in groups]
    return int(kept["class"]), facets


def _of_class(
    model: VisionModel, params: MultifacetedParams, choices: Tensor, *, is_given: bool
) -> tuple[int, Tensor]:
    """Return the class, and the places of the pictures that stand for it."""
    counts = Counter(choices.tolist())
    target = params.target if params.target is not None else counts.most_common(1)[0][0]
    is_all = is_given or bool(params.folder)
    places = torch.arange(len(choices)) if is_all else (choices == target).nonzero()[:, 0]
    if not len(places):
        raise _not_found(model, target, counts)
    return target, places


def _given(picture: Image) -> Callable[[], Image]:
    return lambda: picture


def _listed(params: MultifacetedParams, collections: Collections) -> Named:
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
def _look(model: VisionModel, layer: str, named: Named, looks: Looks) -> dict[str, Tensor]:
    """Look at every picture; features are the layer's means over all positions."""
    with model.capture([layer, LOGITS]) as features:

        def look(at: int) -> dict[str, Tensor]:
            batch = named[at : at + BATCH]
            found = features(torch.cat([model.frame(read(), "crop").pixels for _, read in batch]))
            vectors, choices = pooled(found[layer]).cpu().clone(), found[LOGITS].argmax(1).cpu()
            return {"features": vectors, "choices": choices}

        return looks.through(look, lambda at: named[at][1])


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


def _groups(
    features: Tensor, params: MultifacetedParams, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Group pictures by their features `[N,C]`.

    The paper lays the 50 components out in two dimensions by t-SNE and groups what it sees there;
    here the components themselves are grouped, whose distances mean the same everywhere.
    """
    return clusters(principal(features, COMPONENTS), params.facets, generator)


def _facet(model: VisionModel, params: MultifacetedParams, members: Named) -> Facet:
    nearest = [_square(model, read(), params.size) for _, read in members[: params.nearest]]
    names = tuple(name for name, _ in members)
    return Facet(names, len(nearest), torch.stack(nearest).mean(0))


def _square(model: VisionModel, picture: Image, size: int) -> Tensor:
    """Return what the network saw of a picture, `[3,size,size]`."""
    return Image(model.frame(picture, "crop").pixels[0].cpu()).resize(size, size).pixels
