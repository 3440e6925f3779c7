"""Patches that cover a square one after the other, and maps of what each of them did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lantern.errors import InvalidParameter
from lantern.local_change import Box

# More patches than this are hours.
MOST_PATCHES = 20_000


def patches(side: int, patch: int, stride: int) -> list[Box]:
    """Return where patches lie on a square, row by row; those at the end are cut off.

    None is empty: where patches do not meet, the last pixels may have none.

    Raises:
        InvalidParameter: the patch is larger than the square, or there are too many of them.
    """
    if patch > side:
        raise InvalidParameter(
            f"patch is {patch}; the network looks at {side} px", pointer="/params/patch"
        )
    # where patches do not meet, one more would begin behind the end
    count = min(1 + math.ceil((side - patch) / stride), math.ceil(side / stride))
    if count**2 > MOST_PATCHES:
        raise InvalidParameter(
            f"these would be {count**2} patches; at most {MOST_PATCHES} are taken: choose a "
            "larger stride",
            pointer="/params/stride",
        )
    spans = [(at * stride, min(side, at * stride + patch)) for at in range(count)]
    return [(*rows, *columns) for rows in spans for columns in spans]


def spread(drops: Tensor, boxes: list[Box], side: int) -> Tensor:
    """Return the mean `[S,S]` of the drops `[P]` of all patches that cover a pixel."""
    total, count = torch.zeros(2, side + 1, side + 1, dtype=torch.float64)
    corners = torch.tensor(boxes).T
    top, bottom, left, right = corners
    values = drops.double().cpu()
    for corner, sign in (
        ((top, left), 1), ((bottom, right), 1), ((top, right), -1), ((bottom, left), -1)
    ):  # fmt: skip
        total.index_put_(corner, sign * values, accumulate=True)
        count.index_put_(corner, torch.full_like(values, sign), accumulate=True)
    covered = count.cumsum(0).cumsum(1)[:side, :side]
    summed = total.cumsum(0).cumsum(1)[:side, :side]
    mean: Tensor = summed / covered.clamp_min(1)
    return mean.float()


def coarse_to_fine(
    fall: Callable[[list[Box]], Tensor], boxes: Sequence[Box], share: float
) -> tuple[Tensor, int]:
    """Return what each of `patches` does `[P]`, looking closely only where much happens; how many.

    `fall` says what some patches do. Every second one of every second row is asked for first, and
    those between where a neighbour among them reaches `share` of the largest; the others are
    interpolated. A share of 0 asks for all of them at once.

    Source: Nakandala et al. 2019, Krypton, section 5 (adaptive drill-down).
    """
    if not share:
        return fall(list(boxes)), len(boxes)
    side = math.isqrt(len(boxes))
    second = [box for row in range(0, side, 2) for box in boxes[row * side : (row + 1) * side : 2]]
    rough = fall(second).view(1, 1, -(-side // 2), -1)
    placed = torch.zeros(side, side).to(rough)
    placed[::2, ::2] = rough[0, 0]
    near = nn.functional.max_pool2d(placed.abs()[None], 3, stride=1, padding=1)[0]
    worth = near >= share * near.max()
    worth[::2, ::2] = False
    between = nn.functional.interpolate(
        rough, size=(2 * rough.shape[2] - 1,) * 2, mode="bilinear", align_corners=True
    )
    over = side - between.shape[2]
    falls = nn.functional.pad(between, (0, over, 0, over), mode="replicate")[0, 0]
    falls[::2, ::2] = rough[0, 0]
    places = worth.flatten().nonzero()[:, 0].tolist()
    if places:
        falls[worth] = fall([boxes[place] for place in places])
    return falls.flatten(), rough.numel() + len(places)
