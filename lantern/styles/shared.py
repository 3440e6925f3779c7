"""One network that paints in many hands: what it is made of, and its file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lantern.artifact import SAFETENSORS
from lantern.styles.files import halves, reading, write_whole
from lantern.styles.network import Architecture, StyleNetwork, made
from lantern.styles.prediction import Predictor

_NETWORK, _PREDICTOR = "network.", "predictor."


@dataclass(frozen=True)
class Shared:
    """A network, the hands `[D]` of paintings by name, and what predicts those of others.

    `usual` `[D]` is the hand of a painting that is like the mean of all.
    """

    network: StyleNetwork
    hands: Mapping[str, Tensor]
    usual: Tensor
    predictor: Predictor

    @functools.cached_property
    def trunk(self) -> str:
        """A digest of the network, by which a hand knows whose it is."""
        found = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            found.update(name.encode() + value.half().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def predicted(self, signature: Tensor) -> Tensor:
        """Return the hand `[D]` of a painting by its signature `[1,F]`."""
        with torch.no_grad():
            hand: Tensor = self.usual + self.predictor(signature)[0]
        return hand


def write_shared(shared: Shared, path: Path) -> None:
    """Write everything as float16 safetensors; the header holds shapes and the hands' names."""
    tensors = {
        "hands": torch.stack(list(shared.hands.values())),
        "usual": shared.usual,
        **{_NETWORK + key: value for key, value in shared.network.state_dict().items()},
        **{_PREDICTOR + key: value for key, value in shared.predictor.state_dict().items()},
    }
    facts = {
        "architecture": json.dumps(dataclasses.asdict(shared.network.architecture)),
        "names": json.dumps(list(shared.hands)),
    }
    write_whole(path, halves("shared", tensors, facts).encode(SAFETENSORS))


def read_shared(path: Path) -> Shared:
    """Read what was written, as float32.

    Raises:
        DamagedStyle: the file is missing, damaged or of another shape.
    """
    problem = f"the file of the shared style network, {path.name}, is missing or damaged"
    with reading(path, problem) as (tensors, facts):
        network = made(Architecture(**json.loads(facts["architecture"])))
        network.load_state_dict(_below(_NETWORK, tensors))
        weights = _below(_PREDICTOR, tensors)
        width, features = weights["narrow.weight"].shape
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            predictor = Predictor(features, network.hand_size, width=width)
        predictor.load_state_dict(weights)
        hands = dict(zip(json.loads(facts["names"]), tensors["hands"], strict=True))
        usual = tensors["usual"]
    ready = predictor.eval().requires_grad_(False)
    return Shared(network.eval().requires_grad_(False), hands, usual, ready)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
