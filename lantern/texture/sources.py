"""A picture told by where in an exemplar each of its pixels was taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lantern.errors import InvalidParameter

# Row and column of a pixel that has no source yet.
NOWHERE = -1
# What a place's numbers are kept in; wide enough for every side that a picture may have.
PLACE = torch.int16


@dataclass(frozen=True, eq=False)
class Texture:
    """A finished texture: `pixels` `[3,H,W]`, and the place `[H,W,2]` of each in the exemplar.

    A place is a row and a column: `pixels[:, y, x]` is `exemplar[:, *sources[y, x]]`.
    """

    pixels: Tensor
    sources: Tensor


@dataclass(eq=False)
class Unfinished:
    """A texture that is being made: `sources` `[H,W,2]`, -1 where unknown, and the draws' state.

    Its tensors go on changing while the texture is made; a caller that keeps them takes copies.
    """

    sources: Tensor
    generator: Tensor

    @property
    def known(self) -> Tensor:
        """Which pixels are known, bool `[H,W]`."""
        return self.sources[..., 0] != NOWHERE

    def pixels(self, exemplar: Tensor) -> Tensor:
        """Return the picture so far `[3,H,W]` from the exemplar `[3,h,w]`, black where unknown."""
        # in bands, for wide indices take more memory than the picture
        bands = (band.long().unbind(-1) for band in torch.split(self.sources, 256))
        return torch.cat(
            [exemplar[:, rows, cols].masked_fill_(rows == NOWHERE, 0) for rows, cols in bands],
            dim=1,
        )


def nowhere(height: int, width: int) -> Tensor:
    """Return the places `[H,W,2]` of a picture of which nothing is known."""
    for name, side in (("height", height), ("width", width)):
        if side < 1:
            raise InvalidParameter(
                f"the {name} is {side} px; it must be at least 1 px", pointer=f"/params/{name}"
            )
    return torch.full((height, width, 2), NOWHERE, dtype=PLACE)


def places(height: int, width: int) -> Tensor:
    """Return the row and column of every pixel `[H,W,2]`: a picture taken from itself."""
    rows, columns = torch.arange(height, dtype=PLACE), torch.arange(width, dtype=PLACE)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def begun(generator: torch.Generator) -> Tensor:
    """Draw the state of a new generator, so that a texture's draws are its own."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed).get_state()


def resumed(state: Tensor) -> torch.Generator:
    """Return a generator that goes on from `state`."""
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def unwatched(done: int, total: int, so_far: Unfinished) -> None:
    """Ignore progress: the callback for callers that do not watch."""
