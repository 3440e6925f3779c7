"""Filters: what the first layer of a network looks for."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lantern.artifact import Grid, Outcome, Table
from lantern.errors import InvalidParameter
from lantern.params import Params
from lantern.registry import technique
from lantern.techniques.sheets import check_sheet, squarish
from lantern.vision_model import VisionModel

# Of a deeper layer, the slices of one filter are drawn together on a tile.
GAP = 1
# A filter whose largest weight is less than this share of the largest of all does nothing.
FAINT = 1e-3


class FiltersParams(Params):
    """Which layer's filters to draw, and how."""

    layer: str | None = Field(
        None, max_length=200, description="convolution to draw; the first one if absent"
    )
    scaling: Literal["filter", "global", "symmetric"] = Field(
        "filter",
        description="each filter's own range, the range of all, or that around zero as mid-grey",
    )
    most: int = Field(256, ge=1, le=1024, description="how many filters are drawn, from the first")
    slices: int = Field(
        64, ge=1, le=256, description="of a deeper layer: input channels drawn of each filter"
    )
    enlarge: int = Field(6, ge=1, le=32, description="pixels of the sheet for each weight")


@technique(
    "filters",
    family="inspection",
    runs="interactive",
    source="Krizhevsky et al. 2012, figure 3; CS231n, Visualizing and Understanding",
    outputs={
        "filters": "filters row by row; of the first layer in colour, of deeper ones as slices; "
        "raw, the weights themselves",
        "ranges": "weights that are black and white on each tile, which undo its scaling",
    },
)
def filters(model: VisionModel, params: FiltersParams) -> Outcome:
    """Draw the weights of a convolution as pictures.

    Those of the first layer look at colours, and so are colours: edges, blobs, gratings. A filter
    of a deeper layer has a slice for each of its input channels, drawn in grey side by side.
    """
    name, layer = _convolution(model, params.layer)
    weights = layer.weight.detach().float().cpu()
    shown = weights[: params.most]
    check_size(layer, params)
    reach = shown.flatten(1).abs().amax(1)
    low, high = _bounds(shown, params.scaling)
    scaled = (shown - low) / (high - low).clamp_min(1e-12)
    drawn = (shown if _is_in_colour(layer) else shown[:, : params.slices]).clone()
    tiles = scaled if _is_in_colour(layer) else _slices(scaled[:, : params.slices])
    large = tiles.repeat_interleave(params.enlarge, 2).repeat_interleave(params.enlarge, 3)
    facts = {
        "layer": name,
        "filters": {"drawn": len(shown), "of": len(weights)},
        "shape": list(weights.shape[1:]),
        "range": [float(shown.min()), float(shown.max())],
        "faint": int((reach < FAINT * reach.max()).sum()),
    }
    sheet = Grid("filters", large, squarish(len(large)), raw=drawn)
    return Outcome((sheet, _ranges(low, high, len(shown))), facts)


def check_size(layer: nn.Conv2d, params: FiltersParams) -> None:
    """Make sure that the sheet of a layer is not too large to draw.

    Raises:
        InvalidParameter: it is.
    """
    count, channels, height, width = layer.weight.shape
    if not _is_in_colour(layer):
        down, across = _laid(min(channels, params.slices))
        height, width = down * (height + GAP) - GAP, across * (width + GAP) - GAP
    check_sheet(
        min(count, params.most), height * params.enlarge, width * params.enlarge,
        pointer="/params/enlarge", remedy="lower enlarge, most or, of a deeper layer, slices",
    )  # fmt: skip


def _is_in_colour(layer: nn.Conv2d) -> bool:
    # a group of three of many channels is no colour
    return layer.in_channels == 3 and layer.groups == 1


def _ranges(low: Tensor, high: Tensor, count: int) -> Table:
    bounds = (each.flatten().expand(count).tolist() for each in (low, high))
    rows = (
        {"filter": n, "low": a, "high": b} for n, (a, b) in enumerate(zip(*bounds, strict=True))
    )
    return Table("ranges", tuple(rows))


def _convolution(model: VisionModel, name: str | None) -> tuple[str, nn.Conv2d]:
    found = {n: m for n, m in model.network.named_modules() if isinstance(m, nn.Conv2d)}
    if name is None:
        if not found:
            raise InvalidParameter(
                f"{model.name} has no convolution whose filters could be drawn", pointer="/params"
            )
        return next(iter(found.items()))
    layer = model.layer(name)
    if not isinstance(layer, nn.Conv2d):
        raise InvalidParameter(
            f"layer {name} is no convolution; the first of {model.name} is {next(iter(found), '')}",
            pointer="/params/layer",
        )
    return name, layer


def _bounds(weights: Tensor, scaling: str) -> tuple[Tensor, Tensor]:
    """Return what becomes black and white, each `[N,1,1,1]` or of all filters."""
    if scaling == "filter":
        return weights.amin((1, 2, 3), keepdim=True), weights.amax((1, 2, 3), keepdim=True)
    most = weights.abs().amax()
    return (-most, most) if scaling == "symmetric" else (weights.amin(), weights.amax())


def _slices(filters: Tensor) -> Tensor:
    """Lay the slices of each filter `[N,K,h,w]` side by side in grey, `[N,3,H,W]`."""
    count, slices, height, width = filters.shape
    down, across = _laid(slices)
    blank = torch.ones(count, across * down - slices, height, width)
    tall, wide = height + GAP, width + GAP
    sheet = torch.ones(count, down * tall, across * wide)
    laid = torch.cat([filters, blank], 1).view(count, down, across, height, width)
    for row in range(down):
        for column in range(across):
            place = (
                slice(row * tall, row * tall + height),
                slice(column * wide, column * wide + width),
            )
            sheet[:, *place] = laid[:, row, column]
    return sheet[:, None, : down * tall - GAP, : across * wide - GAP].expand(-1, 3, -1, -1)


def _laid(slices: int) -> tuple[int, int]:
    """Return in how many rows and columns slices lie."""
    across = math.ceil(math.sqrt(slices))
    return math.ceil(slices / across), across
