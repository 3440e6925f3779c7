"""What a texture grows from: a seed, the exemplar itself, or a picture with a hole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.texture.sources import NOWHERE, Unfinished, begun, nowhere, places

# Side of the piece of the exemplar that a texture grows from, px.
SEED = 3
# Largest mean squared difference of a match at first.
MAX_ERROR = 0.3


@dataclass(eq=False)
class GrowthState(Unfinished):
    """How far a texture has grown: all that the next pass depends on but the parameters.

    `max_error` is the error threshold.
    """

    max_error: float = MAX_ERROR

    def state(self) -> dict[str, Tensor]:
        """Return copies of the tensors that `from_state` makes the same state of."""
        return {
            "sources": self.sources.clone(),
            "generator": self.generator.clone(),
            "max_error": torch.tensor(self.max_error, dtype=torch.float64),
        }

    @staticmethod
    def from_state(state: dict[str, Tensor]) -> GrowthState:
        """Make the state that `state` was taken of."""
        return GrowthState(state["sources"], state["generator"], float(state["max_error"]))


def seeded(exemplar: Tensor, height: int, width: int, *, generator: torch.Generator) -> GrowthState:
    """Begin with a piece of 3 by 3 pixels from anywhere in the exemplar `[3,h,w]`, in the middle.

    It is smaller where the exemplar or the texture is.
    """
    rows, columns = (
        min(SEED, own, size) for own, size in zip(exemplar.shape[1:], (height, width), strict=True)
    )
    top = int(torch.randint(exemplar.shape[1] - rows + 1, (), generator=generator))
    left = int(torch.randint(exemplar.shape[2] - columns + 1, (), generator=generator))
    piece = places(*exemplar.shape[1:])[top : top + rows, left : left + columns]
    return _in_the_middle(piece, height, width, generator)


def continued(
    exemplar: Tensor, height: int, width: int, *, generator: torch.Generator
) -> GrowthState:
    """Begin with the whole exemplar `[3,h,w]` in the middle, to be continued on all sides.

    Raises:
        InvalidParameter: the texture is smaller than the exemplar.
    """
    sides = (("height", height, exemplar.shape[1]), ("width", width, exemplar.shape[2]))
    for name, size, own in sides:
        if size < own:
            raise InvalidParameter(
                f"a {name} of {size} px cannot hold the exemplar's {own} px; "
                f"take {own} px or more, or shrink the exemplar",
                pointer=f"/params/{name}",
            )
    return _in_the_middle(places(*exemplar.shape[1:]), height, width, generator)


def around(hole: Tensor, *, generator: torch.Generator) -> GrowthState:
    """Begin with all of a picture but its `hole`, bool `[H,W]`; the picture is the exemplar.

    Hand `~hole` to `grow` as `usable`.
    """
    sources = places(*hole.shape).masked_fill(hole[..., None], NOWHERE)
    return GrowthState(sources, begun(generator))


def _in_the_middle(
    piece: Tensor, height: int, width: int, generator: torch.Generator
) -> GrowthState:
    sources = nowhere(height, width)
    rows, columns = piece.shape[:2]
    top, left = (height - rows) // 2, (width - columns) // 2
    sources[top : top + rows, left : left + columns] = piece
    return GrowthState(sources, begun(generator))
