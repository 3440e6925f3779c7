"""Which neuron of a layer a technique explains instead of a class."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.faithfulness import curve_batches
from lantern.techniques.explained import ExplainParams
from lantern.techniques.target import check_channel

# What says which of a layer's neurons is meant, and so needs the layer.
_OF_A_LAYER = ("channel", "row", "column")


class NeuronParams(ExplainParams):
    """Also which neuron to explain, if not a class."""

    layer: str | None = Field(
        None, max_length=200, description="explain a neuron of this layer, not the class"
    )
    channel: int | None = Field(
        None, ge=0, le=100_000, description="its channel; the strongest one if absent"
    )
    row: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="its row on the layer's map, with `column`; the strongest place if absent",
    )
    column: int | None = Field(
        None, ge=0, le=100_000, description="its column on the layer's map, with `row`"
    )

    def steps_of_evidence(self, own: int) -> int:
        """Return how many steps the evidence takes; a neuron has no curves."""
        curves = 0 if self.layer is None else curve_batches(self.evidence)
        return super().steps_of_evidence(own) - curves

    def check(self) -> None:
        """Make sure that what says which neuron is meant is complete.

        Raises:
            InvalidParameter: the layer is missing, or one of row and column.
        """
        for name in _OF_A_LAYER:
            if self.layer is None and getattr(self, name) is not None:
                raise InvalidParameter(
                    f"a {name} is one of a layer: name the layer too", pointer=f"/params/{name}"
                )
        if (self.row is None) != (self.column is None):
            given, missing = ("row", "column") if self.column is None else ("column", "row")
            raise InvalidParameter(
                f"a {given} says no place without the {missing}: give both, or none",
                pointer=f"/params/{missing}",
            )


def find_neuron(activation: Tensor, params: NeuronParams, layer: str) -> tuple[int, ...]:
    """Return the index of the neuron in what a layer made of a picture, `[C,h,w]` or `[C]`.

    It is the strongest of those that the parameters leave open.

    Raises:
        InvalidParameter: the layer has no such channel or place.
    """
    activation = activation.detach()
    if params.channel is not None:
        check_channel(params.channel, len(activation), layer)
    if params.row is not None and params.column is not None:
        _check_place(params.row, params.column, activation, layer)
        at_place = activation[:, params.row, params.column]
        channel = int(at_place.argmax()) if params.channel is None else params.channel
        return channel, params.row, params.column
    flat = activation.reshape(len(activation), -1)
    channel = int(flat.amax(1).argmax()) if params.channel is None else params.channel
    place = torch.unravel_index(flat[channel].argmax(), activation.shape[1:])
    return channel, *(int(i) for i in place)


class Watched:
    """The neuron that is explained: found on the network that is asked, and kept for its twins.

    Those have random weights, by which another one would be the strongest.
    """

    def __init__(self, params: NeuronParams) -> None:
        self._params = params
        self._index: tuple[int, ...] | None = None

    def index(self, activation: Tensor, layer: str) -> tuple[int, ...]:
        """Return its index in what a layer made of a picture, `[C,h,w]` or `[C]`.

        Raises:
            InvalidParameter: the layer has no such channel or place.
        """
        if self._index is None:
            self._index = find_neuron(activation, self._params, layer)
        return self._index


def _check_place(row: int, column: int, activation: Tensor, layer: str) -> None:
    if activation.dim() != 3:
        raise InvalidParameter(
            f"layer {layer} has no rows and columns: leave both out, or choose an earlier layer",
            pointer="/params/row",
        )
    for name, value, count in zip(
        ("row", "column"), (row, column), activation.shape[1:], strict=True
    ):
        if value >= count:
            raise InvalidParameter(
                f"{name} is {value}; the maps of layer {layer} have the {name}s 0 to {count - 1}",
                pointer=f"/params/{name}",
            )


def neuron_facts(layer: str, index: tuple[int, ...], activation: Tensor) -> dict[str, Any]:
    """Say which neuron of a layer is explained, and what it is for the picture."""
    return {"layer": layer, "index": list(index), "value": float(activation.detach()[index])}
