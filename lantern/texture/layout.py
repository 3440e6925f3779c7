"""Where the blocks of a quilt lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.texture.seams import Sides

# Share of a block that overlaps the next, unless told.
OVERLAP = 1 / 6


@dataclass(frozen=True)
class Layout:
    """Where blocks lie: first and last row (column) of each, the latter exclusive."""

    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]
    overlap: int
    tileable: bool

    @staticmethod
    def of(sources: Tensor, block: int, overlap: int | None, tileable: bool) -> Layout:
        """Lay out blocks for a texture of that many `sources`, checked to fit it."""
        overlap = max(1, round(block * OVERLAP)) if overlap is None else overlap
        _check_overlap(block, overlap)
        height, width = sources.shape[:2]
        for name, side in (("height", height), ("width", width)):
            if tileable and side < 2 * overlap:
                raise InvalidParameter(
                    f"a {name} of {side} px is less than two overlaps of {overlap} px, which a "
                    "tileable texture needs; take a smaller block or a larger texture",
                    pointer=f"/params/{name}",
                )
        rows, columns = (_spans(side, block, overlap, tileable) for side in (height, width))
        return Layout(rows, columns, overlap, tileable)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.rows) * len(self.columns)

    def block(self, index: int) -> tuple[Tensor, Tensor, Sides]:
        """Return a block's rows and columns, which may lie beyond the edge, and its sides."""
        row, column = divmod(index, len(self.columns))
        is_last_row, is_last_column = row + 1 == len(self.rows), column + 1 == len(self.columns)
        sides = Sides(
            left=column > 0,
            top=row > 0,
            right=self.tileable and is_last_column,
            bottom=self.tileable and is_last_row,
        )
        return torch.arange(*self.rows[row]), torch.arange(*self.columns[column]), sides


def _spans(length: int, block: int, overlap: int, tileable: bool) -> list[tuple[int, int]]:
    """Return where blocks begin and end along a side, each overlapping the next by `overlap`."""
    room = length if tileable else max(1, length - overlap)
    # one tile alone would have to fit itself
    count = max(2 if tileable else 1, -(-room // (block - overlap)))
    begins = [index * room // count for index in range(count)]
    last = length + overlap if tileable else length
    return list(zip(begins, [*(begin + overlap for begin in begins[1:]), last], strict=True))


def _check_overlap(block: int, overlap: int) -> None:
    if block < 3:
        raise InvalidParameter(
            f"the block is {block} px; it must be at least 3 px", pointer="/params/block"
        )
    if not 1 <= overlap <= block // 3:
        raise InvalidParameter(
            f"the overlap is {overlap} px; for blocks of {block} px it is 1..{block // 3} px",
            pointer="/params/overlap",
        )
