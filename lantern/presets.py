"""The layers that techniques fall back to in a network that was brought."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lantern.vision_model import VisionModel
from lantern.work import WHOLE, LayerFacts

# How many of the last layers are asked what they owe to their places; a block of a transformer has
# about fifteen.
MOST_ASKED = 32


@dataclass(frozen=True)
class Presets:
    """Whether any size of picture will do, and the layers that techniques fall back to."""

    cam: str
    dream: str
    content: str
    style: tuple[str, ...]
    any_size: bool


def presets_of(facts: Mapping[str, LayerFacts], *, any_size: bool) -> Presets:
    """Choose layers: the last with maps, and others by the share of the work before them."""
    grids = _grids(facts)
    if not grids:
        return Presets("", "", "", (), any_size)
    ordered = sorted(grids, key=lambda name: grids[name].operations)
    # of those that end at one place, the outermost, which has run last
    places = {grids[name].operations: name for name in ordered}
    names, whole = list(places.values()), facts[WHOLE].operations or 1.0

    def at(share: float) -> str:
        return min(names, key=lambda name: abs(grids[name].operations / whole - share))

    style = tuple(dict.fromkeys(at(share) for share in (0.05, 0.2, 0.35, 0.5, 0.7)))
    return Presets(names[-1], at(0.65), at(0.4), style, any_size)


def with_cam(presets: Presets, facts: Mapping[str, LayerFacts], model: VisionModel) -> Presets:
    """Take the last layer from whose maps the scores come, where none come from the last maps.

    Behind its last attention a transformer may look at the class's token alone.
    """
    last = facts.get(presets.cam)
    if last is None:
        return presets
    alike = [name for name, found in _grids(facts).items() if found.shape == last.shape]
    reached = _reached(model, alike[-MOST_ASKED:], facts)
    return dataclasses.replace(presets, cam=reached[-1] if reached else presets.cam)


def _reached(
    model: VisionModel, names: list[str], facts: Mapping[str, LayerFacts]
) -> tuple[str, ...]:
    """Return those of the layers, in the order they run, whose maps move the strongest score."""
    made: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                made.setdefault(name, output)

        return hook

    # one pass for all, without a graph before the first of them
    with ExitStack() as hooks:
        tail = hooks.enter_context(model.tail(names[0]))
        for name in names[1:]:
            hooks.callback(model.layer(name).register_forward_hook(keep(name)).remove)
        first, logits = tail(model.noise(1))
    given = [first, *made.values()]
    gradients = torch.autograd.grad(logits[0].max(), given, allow_unused=True)
    moved = dict(zip([names[0], *made], gradients, strict=True))
    return tuple(
        name
        for name in names
        if (found := moved.get(name)) is not None
        and bool((found if name == names[0] else facts[name].layout.maps(found)).any())
    )


def _grids(facts: Mapping[str, LayerFacts]) -> dict[str, LayerFacts]:
    """Return the layers with maps, in the order they run."""
    return {name: found for name, found in facts.items() if _has_maps(name, facts)}


def _has_maps(name: str, facts: Mapping[str, LayerFacts]) -> bool:
    """Tell whether a layer has maps of a square picture."""
    found = facts[name]
    if found.parts != 1 or len(found.shape) != 3 or not found.shape[1] == found.shape[2] > 1:
        return False
    # heads of attention look like maps: tokens by tokens, or by channels
    return bool(found.layout.side) or not _is_in_tokens(name, facts)


def _is_in_tokens(name: str, facts: Mapping[str, LayerFacts]) -> bool:
    parts = name.split(".")
    around = (facts.get(".".join(parts[:end])) for end in range(1, len(parts)))
    return any(layer is not None and layer.layout.side for layer in around)
