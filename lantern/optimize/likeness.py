"""How like a style and a drawing pictures are, looked at whole or tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lantern.optimize import tiles
from lantern.optimize.objectives import content_loss
from lantern.optimize.parts import summed
from lantern.optimize.style import Grams, Moments, Style
from lantern.optimize.tiles import Tile

Activations = Mapping[str, Tensor]
# Places where the borders of tiles lie in turn, so that none shows.
BORDERS = 4
# Bytes of what is to be drawn, as all views see it, that are kept from step to step.
MOST_KEPT = 2**28


class Look(Protocol):
    """What a network sees in pictures `[N,3,H,W]`: the layers of the style, and of the content."""

    def __call__(self, pixels: Tensor) -> tuple[Activations, Activations]:
        """Return the activations by layer."""
        ...


@dataclass(frozen=True)
class Terms:
    """Losses, summed over pictures; the weighted `total` carries the gradient.

    `each` is what every picture has of the total, `[N]`, without one.
    """

    total: Tensor
    style: float
    content: float
    each: Tensor


@dataclass(frozen=True)
class View:
    """One way to look at pictures: rolled `by` some pixels (down, right), with a style's masks."""

    style: Style
    by: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Drawing:
    """Pictures `[N,3,H,W]` whose content is wanted, and its weight against the style's."""

    pixels: Tensor
    weight: float


class Likeness(Protocol):
    """How far pictures are from a style and, where there is one, from a drawing."""

    def __call__(self, pixels: Tensor, view: int = 0) -> Terms:
        """Return the losses of pictures `[N,3,H,W]`, summed, in the view of that number."""
        ...


def likeness(
    look: Look,
    views: Sequence[View],
    drawing: Drawing | None,
    *,
    size: tuple[int, int],
    side: int,
    strides: Mapping[str, int],
    style_weight: float = 1.0,
) -> Likeness:
    """Judge pictures of a `size` (height, width) by views, in tiles where it is over `side` px.

    `style_weight` is that of the style in the total; `strides` are the pixels that a position of
    each layer stands for.

    Raises:
        ValueError: a style that is not one of Gram matrices can't be judged in tiles.
    """
    if max(size) <= side:
        return _Whole(look, views, drawing, style_weight)
    return _Tiled(
        look, views, drawing, size=size, side=side, strides=strides, style_weight=style_weight
    )


class _Whole:
    """Looks at all of a picture at once.

    What is to be drawn is looked at once in each view; anew at each step where that is much.
    """

    def __init__(
        self, look: Look, views: Sequence[View], drawing: Drawing | None, style_weight: float
    ) -> None:
        self._look, self._views, self._style_weight = look, views, style_weight
        self._drawing = drawing
        self._wanted: list[Activations] = []
        if drawing is not None:
            first = self._seen(drawing, 0)
            if is_kept(sum(act.nbytes for act in first.values()), len(views)):
                others = [self._seen(drawing, view) for view in range(1, len(views))]
                self._wanted = [first, *others]

    def __call__(self, pixels: Tensor, view: int = 0) -> Terms:
        """Return the losses of pictures."""
        drawing = self._drawing
        hand, drawn = self._look(rolled(pixels, self._views[view].by))
        style = self._views[view].style.moved(self._views[view].by).loss(hand)
        each, content = self._style_weight * style, torch.zeros_like(style)
        if drawing is not None:
            wanted = self._wanted[view] if self._wanted else self._seen(drawing, view)
            content = content_loss(drawn, wanted)
            each = each + drawing.weight * content
        return Terms(each.sum(), style.sum().item(), content.sum().item(), each.detach())

    @torch.no_grad()
    def _seen(self, drawing: Drawing, view: int) -> Activations:
        """Return what is to be drawn, as a view sees it."""
        return self._look(rolled(drawing.pixels, self._views[view].by))[1]


def is_kept(size: float, views: int) -> bool:
    """Tell whether what is to be drawn, of a `size` in bytes, is kept for every view."""
    return size * views <= MOST_KEPT


class _Tiled:
    """Looks at one tile at a time, so that only its activations are in memory.

    Value and gradient are those of the whole picture, but for what lies beyond a tile's halo: a
    pass without gradient sums up the tiles' Gram matrices; then each tile descends the plane that
    touches the style's loss there. Borders lie elsewhere in each view, so that none shows.
    """

    def __init__(
        self,
        look: Look,
        views: Sequence[View],
        drawing: Drawing | None,
        *,
        size: tuple[int, int],
        side: int,
        strides: Mapping[str, int],
        style_weight: float,
    ) -> None:
        self._look, self._drawing, self._strides = look, drawing, strides
        self._style_weight = style_weight
        self._weight = drawing.weight if drawing else 0.0
        self._views: list[tuple[Grams, tuple[int, int], list[Tile]]] = []
        for number, view in enumerate(views):
            if not isinstance(view.style, Grams):
                raise ValueError(f"{type(view.style).__name__} can't be judged in tiles")
            self._views.append((view.style, view.by, _cut(size, side, number / len(views))))
        self._energies = [
            self._summed_energies(rolled(drawing.pixels, by), parts) if drawing else {}
            for _, by, parts in self._views
        ]

    def __call__(self, pixels: Tensor, view: int = 0) -> Terms:
        """Return the losses of pictures."""
        style, by, parts = self._views[view]
        style = style.moved(by)
        seen = rolled(pixels, by)
        wanted = rolled(self._drawing.pixels, by) if self._drawing else None
        with torch.no_grad():
            moments = _summed_moments(self._hand, style, seen, parts)
        value, slopes = _touched(style, moments)
        weighed, slopes = self._style_weight * value, [self._style_weight * s for s in slopes]
        contents = torch.zeros_like(value)

        def share(part: Tensor, tile: Tile) -> Tensor:
            hand, drawn = self._counted(part, tile)
            descent = _along(slopes, style.moments(hand, tile.core))
            if wanted is None:
                return descent
            far = self._far(drawn, tile.seen.of(wanted), tile, self._energies[view])
            contents.add_(far.detach())
            return descent + self._weight * far.sum()

        level = _along(slopes, moments)
        total = summed(share, seen, parts) + (weighed.sum() - level)
        each = weighed + self._weight * contents
        return Terms(total, value.sum().item(), contents.sum().item(), each)

    def _hand(self, part: Tensor, tile: Tile) -> Activations:
        return self._counted(part, tile)[0]

    def _counted(self, part: Tensor, tile: Tile) -> tuple[Activations, Activations]:
        """Return the activations of what a tile sees that belong to its core."""
        hand, drawing = self._look(part)
        return (
            {name: tile.counted(act, self._strides[name]) for name, act in hand.items()},
            {name: tile.counted(act, self._strides[name]) for name, act in drawing.items()},
        )

    @torch.no_grad()
    def _summed_energies(self, pixels: Tensor, parts: Sequence[Tile]) -> dict[str, Tensor]:
        """Return the squared size `[N]` of what is to be drawn, by layer."""
        energies: dict[str, Tensor] = {}
        for tile in parts:
            for name, act in self._counted(tile.seen.of(pixels), tile)[1].items():
                energies[name] = energies.get(name, 0) + act.flatten(1).square().sum(1)
        return energies

    def _far(
        self, drawn: Activations, wanted: Tensor, tile: Tile, energies: Mapping[str, Tensor]
    ) -> Tensor:
        """Return a tile's share of the content's loss `[N]`, as `content_loss` has it."""
        with torch.no_grad():
            targets = self._counted(wanted, tile)[1]
        errors = [
            (act - targets[name]).flatten(1).square().sum(1) / energies[name].clamp_min(1e-12)
            for name, act in drawn.items()
        ]
        return torch.stack(errors).mean(0)


def views_of(
    style: Style,
    shifts: Sequence[tuple[int, int]],
    *,
    size: tuple[int, int],
    side: int,
    turns: bool = True,
) -> list[View]:
    """Return the views of a style from places some pixels apart, (down, right).

    Pictures over `side` px are seen in tiles, whose borders lie elsewhere in each view. Where
    nothing `turns`, each place is one view.
    """
    count = count_of_views(len(shifts), size=size, side=side, turns=turns)
    return [View(style, shifts[n % len(shifts)]) for n in range(count)]


def count_of_views(shifts: int, *, size: tuple[int, int], side: int, turns: bool = True) -> int:
    """Return how many views there are from so many places: for tiles that turn, `BORDERS`."""
    return max(shifts, BORDERS) if turns and max(size) > side else shifts


def rolled(pixels: Tensor, by: tuple[int, int]) -> Tensor:
    """Roll pictures `[N,3,H,W]` down and right; what leaves on one side enters on the other."""
    return pixels.roll(by, (2, 3))


def seen_in_step(
    size: tuple[int, int], side: int, *, has_drawing: bool, is_kept: bool = True
) -> float:
    """Return the pixels that pass through the network in a step, forward and back each once.

    Pictures over `side` px pass in tiles; where there is a drawing, and what a network sees in it
    is not kept, it passes too.
    """
    is_tiled = max(size) > side
    passes = 2 + is_tiled  # once more for the Gram matrices
    passes += has_drawing and (is_tiled or not is_kept)
    return float(passes * sum(tile.seen.area for tile in tiles.laid(size, side)))


def seen_at_once(size: tuple[int, int], side: int) -> float:
    """Return the pixels whose gradient is kept at a time."""
    return float(max(tile.seen.area for tile in tiles.laid(size, side)))


@torch.no_grad()
def grams_of(
    look: Callable[[Tensor], Activations],
    pixels: Tensor,
    *,
    side: int,
    strides: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return the Gram matrices `[N,C,C]` of pictures `[N,3,H,W]` by layer, in tiles if large."""
    sums: dict[str, Moments] = {}
    for tile in tiles.laid((pixels.shape[2], pixels.shape[3]), side):
        for name, act in look(tile.seen.of(pixels)).items():
            one = Moments.of(tile.counted(act, strides[name]))
            sums[name] = sums[name] + one if name in sums else one
    return {name: moments.gram() for name, moments in sums.items()}


def _summed_moments(
    hand: Callable[[Tensor, Tile], Activations],
    style: Grams,
    pixels: Tensor,
    parts: Sequence[Tile],
) -> list[Moments]:
    total: list[Moments] = []
    for tile in parts:
        found = style.moments(hand(tile.seen.of(pixels), tile), tile.core)
        total = [a + b for a, b in zip(total, found, strict=True)] if total else found
    return total


def _touched(style: Grams, moments: Sequence[Moments]) -> tuple[Tensor, list[Tensor]]:
    """Return the style's loss `[N]`, and its gradient by the products."""
    leaves = [Moments(m.products.detach().requires_grad_(), m.weight) for m in moments]
    with torch.enable_grad():
        value = style.judged(leaves)
        slopes = torch.autograd.grad(value.sum(), [leaf.products for leaf in leaves])
    return value.detach(), list(slopes)


def _along(slopes: Sequence[Tensor], moments: Sequence[Moments]) -> Tensor:
    terms = [(s * m.products).sum() for s, m in zip(slopes, moments, strict=True)]
    return torch.stack(terms).sum()


def _cut(size: tuple[int, int], side: int, share: float) -> list[Tile]:
    """Cut a picture into tiles whose borders are moved by a share of the distance between them."""
    step = side - 2 * tiles.HALO
    down, right = (int(share * n * step) // tiles.GRID * tiles.GRID % step for n in (1, 3))
    return tiles.laid(size, side, (down, right))
