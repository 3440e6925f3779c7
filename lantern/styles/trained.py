"""What training gives, as a file: a network of its own, or a hand of the shared one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lantern.artifact import Weights
from lantern.styles.files import DamagedStyle, halves, reading
from lantern.styles.network import Architecture, StyleNetwork, made

_PROBLEM = "the style's file {name} is missing or damaged; train the style again"


def network_weights(name: str, network: StyleNetwork, facts: Mapping[str, str]) -> Weights:
    """Return a network as a file of half precision; facts beside what it is."""
    architecture = json.dumps(dataclasses.asdict(network.architecture))
    return halves(name, network.state_dict(), {**facts, "architecture": architecture})


def hand_weights(name: str, hand: Tensor, trunk: str, facts: Mapping[str, str]) -> Weights:
    """Return a hand `[D]` of the shared network with that digest as a file of half precision."""
    return halves(name, {"hand": hand}, {**facts, "trunk": trunk})


def read_network(path: Path) -> StyleNetwork:
    """Read a network as float32.

    Raises:
        DamagedStyle: the file is missing, damaged or of another shape.
    """
    with reading(path, _PROBLEM.format(name=path.name)) as (weights, facts):
        network = made(Architecture(**json.loads(facts["architecture"])))
        network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def read_hand(path: Path, trunk: str) -> Tensor:
    """Read a hand `[D]` of the shared network with that digest.

    Raises:
        DamagedStyle: the file is missing or damaged, or the hand is another network's.
    """
    with reading(path, _PROBLEM.format(name=path.name)) as (tensors, facts):
        if facts["trunk"] != trunk:
            raise DamagedStyle(
                "the style was trained on a shared network that has been replaced since; "
                "train it again"
            )
        return tensors["hand"]
