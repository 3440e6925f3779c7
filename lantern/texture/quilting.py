"""Texture quilted from blocks of an exemplar, joined where they differ least."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.texture.layout import Layout
from lantern.texture.matching import BlockDistances, near_best
from lantern.texture.seams import Sides, from_block
from lantern.texture.sources import Texture, Unfinished, begun, nowhere, places, resumed, unwatched

# What red, green and blue add to luminance (ITU-R BT.709).
LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(eq=False)
class QuiltState(Unfinished):
    """How far a quilt has come: all that the next block depends on but the parameters.

    `laid` blocks lie already, in raster order.
    """

    laid: int = 0

    def state(self) -> dict[str, Tensor]:
        """Return copies of the tensors that `from_state` makes the same state of."""
        return {
            "sources": self.sources.clone(),
            "generator": self.generator.clone(),
            "laid": torch.tensor(self.laid),
        }

    @staticmethod
    def from_state(state: dict[str, Tensor]) -> QuiltState:
        """Make the state that `state` was taken of."""
        return QuiltState(state["sources"], state["generator"], int(state["laid"]))


@dataclass(frozen=True, eq=False)
class Guide:
    """A picture whose luminance `[H,W]` the texture is to follow.

    `alpha`, 0..1, is the share of the texture's own coherence in the choice of blocks; the rest is
    likeness to the guide, whose mean and contrast are first made the exemplar's.
    """

    luminance: Tensor
    alpha: float


def unlaid(height: int, width: int, *, generator: torch.Generator) -> QuiltState:
    """Begin with nothing."""
    return QuiltState(nowhere(height, width), begun(generator))


def quilt(
    exemplar: Tensor,
    start: QuiltState,
    *,
    block: int,
    overlap: int | None = None,
    tileable: bool = False,
    guide: Guide | None = None,
    progress: Callable[[int, int, QuiltState], None] = unwatched,
) -> Texture:
    """Lay fitting blocks of the `exemplar` `[3,h,w]` in raster order, joined by least-error cuts.

    Blocks have at most `block` rows and columns and overlap by `overlap`, a sixth of that unless
    told; they shrink a little so that a whole number of them fills the picture. Each is drawn among
    those whose overlap fits nearly as well as the best. Those of a `tileable` texture also fit at
    the opposite edges. With a `guide` blocks also follow its luminance. `start` is left as it is.

    `progress` is called after each block with the blocks laid, all there will be, and the state; it
    may raise to stop. A run from that state ends in the same bytes.

    Source: Efros and Freeman 2001, "Image Quilting for Texture Synthesis and Transfer". Departs in
    that the block that lies in the exemplar where the neighbours' own surroundings go on is passed
    over: its overlap has no error, so that no other would ever be drawn and the exemplar be copied
    up to its edge. Transfer is its first pass, with means in place of sums, so that `alpha` means
    the same for all sizes.

    Raises:
        InvalidParameter: block, overlap or guide do not fit the exemplar or the texture.
    """
    layout = Layout.of(start.sources, block, overlap, tileable)
    _check(exemplar, layout, guide, start.sources)
    quilting = _Quilt(exemplar, start, layout, guide)
    while quilting.laid < layout.count:
        quilting.lay()
        progress(quilting.laid, layout.count, quilting.state())
    return Texture(quilting.picture, quilting.sources)


def quilting_operations(exemplar: tuple[int, int], pixels: int, block: int) -> float:
    """Count the operations of quilting so many pixels from an exemplar (height, width).

    Each block is compared with every place by Fourier transforms of three planes and back.
    """
    places = exemplar[0] * exemplar[1]
    blocks = pixels / (block * 5 / 6) ** 2
    return float(blocks * 4 * 5 * places * math.log2(max(2, places)))


class _Quilt:
    """A texture while blocks are laid."""

    def __init__(
        self, exemplar: Tensor, start: QuiltState, layout: Layout, guide: Guide | None
    ) -> None:
        self.sources, self.laid = start.sources.clone(), start.laid
        self.picture = start.pixels(exemplar)
        self._generator = resumed(start.generator)
        self._exemplar, self._layout, self._guide = exemplar, layout, guide
        self._places = places(*exemplar.shape[1:])
        planes = exemplar
        if guide is not None:
            luminance = torch.tensordot(torch.tensor(LUMINANCE), exemplar, dims=1)
            planes = torch.cat([exemplar, luminance[None]])
            self._target = _like(guide.luminance, luminance)
        self._distances = BlockDistances(planes)
        self._kept: dict[tuple[int, int, Sides], tuple[Tensor, Tensor]] = {}

    def state(self) -> QuiltState:
        return QuiltState(self.sources, self._generator.get_state(), self.laid)

    def lay(self) -> None:
        """Choose the next block, cut it to fit and lay it."""
        rows, columns, sides = self._layout.block(self.laid)
        at = (rows[:, None] % self.sources.shape[0], columns % self.sources.shape[1])
        before = self.picture[:, *at]
        top, left = self._choose(at, before, sides)
        cut_out = (slice(top, top + len(rows)), slice(left, left + len(columns)))
        block = self._exemplar[:, *cut_out]
        error = (block - before).square().sum(0)
        is_taken = from_block(error, self._layout.overlap, sides)
        self.picture[:, *at] = torch.where(is_taken, block, before)
        self.sources[at] = torch.where(is_taken[..., None], self._places[cut_out], self.sources[at])
        self.laid += 1

    def _choose(self, at: tuple[Tensor, Tensor], before: Tensor, sides: Sides) -> tuple[int, int]:
        """Return row and column in the exemplar of a block that fits."""
        weights, squares = self._weights(before.shape[1], before.shape[2], sides)
        if self._guide is not None:
            before = torch.cat([before, self._target[at][None]])
        distances = self._distances(before, weights, squares)
        self._pass_over(distances, self.sources[at])
        draw = torch.rand(1, generator=self._generator)
        chosen = int(near_best(distances.reshape(1, -1), draw))
        return divmod(chosen, distances.shape[1])

    def _pass_over(self, distances: Tensor, sources: Tensor) -> None:
        """Rule out the blocks whose overlap was copied from themselves, unlike the paper."""
        is_known = sources[..., 0] >= 0
        begins = (sources - places(*sources.shape[:2]))[is_known].long()
        limits = torch.tensor(distances.shape)
        rows, columns = begins[((begins >= 0) & (begins < limits)).all(1)].unbind(1)
        kept = distances[rows, columns]
        distances[rows, columns] = torch.inf
        if distances.isinf().all():  # an exemplar of one block has nothing else
            distances[rows, columns] = kept

    def _weights(self, height: int, width: int, sides: Sides) -> tuple[Tensor, Tensor]:
        """Return the weights `[C,k,l]` of a block's differences, and what depends on them alone."""
        key = (height, width, sides)
        if key not in self._kept:
            weights = _overlap_weights(height, width, self._layout.overlap, sides)
            if self._guide is not None:
                likeness = torch.full((1, height, width), 1 / (height * width))
                alpha = self._guide.alpha
                weights = torch.cat([alpha * weights, (1 - alpha) * likeness])
            self._kept[key] = (weights, self._distances.squares(weights))
        return self._kept[key]


def _like(luminance: Tensor, other: Tensor) -> Tensor:
    """Give a luminance the mean and the standard deviation of another."""
    contrast = other.std(correction=0) / luminance.std(correction=0).clamp_min(1e-6)
    return (luminance - luminance.mean()) * contrast + other.mean()


def _overlap_weights(height: int, width: int, overlap: int, sides: Sides) -> Tensor:
    """Return weights `[3,k,l]` that make a mean over the overlap, all zero without one."""
    left, top, right, bottom = sides
    mask = torch.zeros(height, width)
    mask[:, :overlap] += left
    mask[:overlap] += top
    mask[:, -overlap:] += right
    mask[-overlap:] += bottom
    mask.clamp_(max=1)
    return (mask / (3 * mask.sum()).clamp_min(1)).expand(3, -1, -1)


def _check(exemplar: Tensor, layout: Layout, guide: Guide | None, sources: Tensor) -> None:
    height, width = (max(e - b for b, e in spans) for spans in (layout.rows, layout.columns))
    if height > exemplar.shape[1] or width > exemplar.shape[2]:
        raise InvalidParameter(
            f"the exemplar is {exemplar.shape[2]}x{exemplar.shape[1]} px, smaller than a block of "
            f"{width}x{height} px; take a smaller block or a larger exemplar",
            pointer="/params/block",
        )
    if guide is not None and guide.luminance.shape != sources.shape[:2]:
        raise InvalidParameter(
            f"the guide is {'x'.join(map(str, reversed(guide.luminance.shape)))} px, the texture "
            f"{sources.shape[1]}x{sources.shape[0]} px; resize the guide to the texture",
            pointer="/images/guide",
        )
