"""What a picture is made to excite, written as text: `class:207`, `layer3:12 - 0.5*layer3:7`."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.vision_model import LOGITS, VisionModel

GRAMMAR = (
    "class:NUMBER, LAYER:CHANNEL, LAYER:CHANNEL@ROWxCOLUMN, LAYER:CHANNEL@center, "
    "LAYER:CHANNEL=SHARE;CHANNEL=SHARE (a direction), LAYER:FIRST..LAST or LAYER:* (one picture "
    "for each channel) or LAYER alone, joined by + and - and weighed as in 0.5*class:207"
)
_NUMBER = r"\d{1,6}"
_SHARE = r"-?\d{1,6}(?:\.\d{1,6})?"
_TERM = re.compile(
    rf"""\s*(?P<sign>[+-]?)\s*(?:(?P<weight>\d{{1,6}}(?:\.\d{{1,6}})?)\s*\*\s*)?
    (?P<layer>[A-Za-z_][\w.]{{0,199}})
    (?::(?:(?P<every>\*)|(?P<first>{_NUMBER})\.\.(?P<last>{_NUMBER})
      |(?P<direction>{_NUMBER}={_SHARE}(?:;{_NUMBER}={_SHARE})*)|(?P<channel>{_NUMBER})))?
    (?:@(?:(?P<row>{_NUMBER})x(?P<column>{_NUMBER})|(?P<center>center)))?\s*""",
    re.ASCII | re.VERBOSE,
)
Spot = tuple[int, int] | None


@dataclass(frozen=True)
class Term:
    """One part of an objective.

    `channels` are the shares of the layer's channels; without any the whole layer is meant. At a
    `spot` (row, column) only that position counts, else the mean over all of them; `center` is
    the middle one, wherever that is.
    """

    weight: float
    layer: str
    channels: tuple[tuple[int, float], ...] = ()
    spot: Spot = None
    center: bool = False


@dataclass(frozen=True)
class Goal:
    """What one picture is made to excite: the sum of its terms."""

    text: str
    terms: tuple[Term, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes it speaks for."""
        return tuple(
            term.channels[0][0]
            for term in self.terms
            if term.layer == LOGITS and term.channels and term.weight > 0
        )


def read(texts: Sequence[str], model: VisionModel, *, most: int) -> tuple[Goal, ...]:
    """Read objectives; one that names several channels becomes one for each.

    Raises:
        InvalidParameter: one cannot be read, or they are more than `most`.
        UnknownName: the network has no such layer.
    """
    goals: list[Goal] = []
    for number, text in enumerate(texts):
        goals += _goals(text, model, f"/params/objectives/{number}", most - len(goals), most)
    return tuple(goals)


def read_one(text: str, model: VisionModel, *, pointer: str) -> Goal:
    """Read an objective that speaks of one picture.

    Raises:
        InvalidParameter: it cannot be read, or names several channels.
        UnknownName: the network has no such layer.
    """
    return _goals(text, model, pointer, 1, 1)[0]


def _goals(text: str, model: VisionModel, pointer: str, left: int, most: int) -> list[Goal]:
    """Read one text, which may stand for as many objectives as are `left` of all there may be."""
    choices: list[list[Term]] = []
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or (at > 0 and not match["sign"]):
            raise InvalidParameter(f"an objective is {GRAMMAR}", pointer=pointer)
        choices.append(_terms(match, model, pointer))
        at = match.end()
        if math.prod(map(len, choices)) > left:  # before they are made: they may be billions
            raise InvalidParameter(
                f"these are more objectives than are taken in one run, at most {most}: "
                "name fewer channels",
                pointer=pointer,
            )
    if not choices:
        raise InvalidParameter(f"an objective is empty; it is {GRAMMAR}", pointer=pointer)
    if all(len(choice) == 1 for choice in choices):
        return [Goal(text.strip(), tuple(choice[0] for choice in choices))]
    return [Goal(_named(terms), terms) for terms in itertools.product(*choices)]


def _terms(match: re.Match[str], model: VisionModel, pointer: str) -> list[Term]:
    weight = float(match["weight"] or 1) * (-1 if match["sign"] == "-" else 1)
    layer = match["layer"]
    spot = (int(match["row"]), int(match["column"])) if match["row"] else None
    if layer == "class":
        if not match["channel"] or spot or match["center"]:
            raise InvalidParameter("a class is named as in class:207", pointer=pointer)
        layer = LOGITS
        model.check_class(int(match["channel"]), model.class_count, pointer=pointer)
    term = Term(weight, layer, spot=spot, center=bool(match["center"]))
    count, *sides = model.shape(layer, pointer=pointer)
    if (term.spot or term.center) and not (sides and ":" in match[0]):
        raise InvalidParameter(
            f"a position is one of a channel; {layer} has none, or no channel is named: "
            f"an objective is {GRAMMAR}",
            pointer=pointer,
        )
    return [
        replace(term, channels=_checked(c, count, layer, pointer))
        for c in _chosen(match, count, pointer)
    ]


def _chosen(
    match: re.Match[str], count: int, pointer: str
) -> Sequence[tuple[tuple[int, float], ...]]:
    if match["every"]:
        return [((channel, 1.0),) for channel in range(count)]
    if match["first"]:
        first, last = int(match["first"]), int(match["last"])
        if not first <= last < count:
            raise InvalidParameter(
                f"channels go from 0 to {count - 1}, the first before the last, "
                f"not from {first} to {last}",
                pointer=pointer,
            )
        return [((channel, 1.0),) for channel in range(first, last + 1)]
    if match["direction"]:
        shares = (part.split("=") for part in match["direction"].split(";"))
        return [tuple((int(channel), float(share)) for channel, share in shares)]
    return [((int(match["channel"]), 1.0),)] if match["channel"] else [()]


def _checked(
    channels: tuple[tuple[int, float], ...], count: int, layer: str, pointer: str
) -> tuple[tuple[int, float], ...]:
    for channel, _ in channels:
        if channel >= count:
            raise InvalidParameter(
                f"layer {layer} has the channels 0 to {count - 1}, not {channel}", pointer=pointer
            )
    return channels


def _named(terms: Sequence[Term]) -> str:
    """Write an objective that was made from one for several channels."""
    parts: list[str] = []
    for term in terms:
        sign = "-" if term.weight < 0 else "+" if parts else ""
        weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}*"
        name = "class" if term.layer == LOGITS else term.layer
        channel = f":{term.channels[0][0]}" if term.channels else ""
        spot = f"@{term.spot[0]}x{term.spot[1]}" if term.spot else "@center" * term.center
        parts.append(f"{sign}{weight}{name}{channel}{spot}")
    return "".join(parts)


class Goals:
    """The objectives of a batch, one for each sample, evaluated together."""

    def __init__(self, goals: Sequence[Goal], *, cosine_power: float = 0.0) -> None:
        self._goals, self._power = tuple(goals), cosine_power
        self.layers = tuple(dict.fromkeys(t.layer for goal in goals for t in goal.terms))
        self._groups: dict[tuple[str, Spot, bool, bool], list[tuple[int, Term]]] = defaultdict(list)
        for row, goal in enumerate(goals):
            for term in goal.terms:
                key = (term.layer, term.spot, term.center, bool(term.channels))
                self._groups[key].append((row, term))

    def values(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return how far each sample has come, `[N]`, from the activations of `layers`.

        A channel counts by its mean activation, a direction by the dot product with it, times
        their cosine to the power of `cosine_power`, a whole layer by its mean square.

        Source: Olah et al. 2017, "Feature Visualization"; Carter et al. 2019, "Activation Atlas",
        for the cosine.
        """
        first = next(iter(seen.values()))
        total = first.new_zeros(len(self._goals))
        for (layer, spot, center, has_channels), members in self._groups.items():
            rows = torch.tensor([row for row, _ in members], device=first.device)
            weights = first.new_tensor([term.weight for _, term in members])
            activation = seen[layer] if _is_all(rows, len(seen[layer])) else seen[layer][rows]
            if has_channels:
                vectors = _vectors(activation, spot, center=center, layer=layer)
                parts = self._along(vectors, [term for _, term in members])
            else:
                parts = activation.flatten(1).square().mean(1)
            total = total.index_add(0, rows, weights * parts)
        return total

    def _along(self, vectors: Tensor, terms: Sequence[Term]) -> Tensor:
        wanted = torch.zeros_like(vectors)
        for row, term in enumerate(terms):
            for channel, share in term.channels:
                wanted[row, channel] = share
        dot = (vectors * wanted).sum(1)
        if self._power == 0:
            return dot
        length = vectors.norm(dim=1) * wanted.norm(dim=1)
        # a floor keeps a gradient where the picture begins on the wrong side
        cosine: Tensor = (dot / length.clamp_min(1e-6)).clamp_min(0.1)
        return dot * cosine.pow(self._power)


def _is_all(rows: Tensor, count: int) -> bool:
    return rows.tolist() == list(range(count))


def _vectors(activation: Tensor, spot: Spot, *, center: bool, layer: str) -> Tensor:
    """Return one vector `[N,C]` for each sample: at a position, or the mean over all."""
    if activation.dim() == 2:
        return activation
    height, width = activation.shape[2:4]
    if center:
        spot = (height // 2, width // 2)
    if spot is None:
        return activation.flatten(2).mean(2)
    if spot[0] >= height or spot[1] >= width:
        raise InvalidParameter(
            f"layer {layer} has {height} rows and {width} columns here, not {spot[0]}x{spot[1]}",
            pointer="/params/objectives",
        )
    return activation[:, :, spot[0], spot[1]]
