"""A trained decoder: its weights, its codes' statistics, and what it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lantern.artifact import Weights
from lantern.decoders.network import Architecture, DecoderNetwork
from lantern.errors import InvalidParameter, LanternError
from lantern.vision_model import VisionModel

POINTER = "/params/decoder"
# What a file's metadata calls itself, and the largest file read, bytes.
KIND, LARGEST = "lantern-decoder-1", 32 * 2**20
_PREFIX = "network."


class DamagedDecoder(LanternError):
    """The file is no decoder, or was cut or changed."""

    code = "damaged-decoder"


@dataclass(frozen=True)
class Origin:
    """The features a decoder turns back: of which network and layer, averaged over positions?"""

    network: str
    weights_sha256: str
    layer: str
    pooled: bool


@dataclass(frozen=True, eq=False)
class Decoder:
    """A network that draws pictures from codes, `mean` and `std` of each unit of a code."""

    origin: Origin
    network: DecoderNetwork
    mean: Tensor
    std: Tensor
    digest: str = ""

    def pictures(self, units: Tensor) -> Tensor:
        """Draw `[N,3,S,S]` from codes in standard deviations from their mean."""
        drawn: Tensor = self.network(units)
        return drawn

    def units(self, codes: Tensor) -> Tensor:
        """Return codes as standard deviations from their mean."""
        return (codes - self.mean) / self.std

    def check(self, model: VisionModel) -> None:
        """Check that this network's features are what it was trained on.

        Raises:
            InvalidParameter: it was trained on another network, or a layer that is not there.
        """
        if (model.name, model.weights_sha256) != (self.origin.network, self.origin.weights_sha256):
            raise _unfit(f"was trained on the network {self.origin.network}, not on {model.name}")
        shape = model.shape(self.origin.layer, pointer=POINTER)
        wanted = shape[:1] if self.origin.pooled else shape
        if wanted != self.network.architecture.code:
            raise _unfit(f"does not fit the features of the layer {self.origin.layer}")

    def to(self, device: torch.device) -> Decoder:
        """Return it on a device."""
        mean, std = self.mean.to(device), self.std.to(device)
        return Decoder(self.origin, self.network.to(device), mean, std, self.digest)

    def weights(self, name: str, facts: Mapping[str, str]) -> Weights:
        """Return it as a file: the network in half precision, facts beside what it is."""
        state = self.network.state_dict()
        tensors = {_PREFIX + key: value.half() for key, value in state.items()}
        said = asdict(self.origin) | asdict(self.network.architecture)
        own = {key: json.dumps(value) for key, value in said.items()}
        return Weights(
            name,
            tensors | {"mean": self.mean.float(), "std": self.std.float()},
            {**facts, **own, "kind": KIND},
        )


def _unfit(reason: str) -> InvalidParameter:
    return InvalidParameter(
        f"the decoder {reason}; train one for this network and name that",
        pointer=POINTER,
        code="unfit-decoder",
    )


def read(data: bytes) -> Decoder:
    """Read a decoder's file; nothing in it is executed.

    Raises:
        DamagedDecoder: it is none, or not as it was written.
    """
    try:
        return _read(data)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedDecoder(
            "this is no decoder, or the file is damaged; train it again, or download it again",
            pointer=POINTER,
        ) from error


def _read(data: bytes) -> Decoder:
    if len(data) > LARGEST:
        raise ValueError("too large")
    tensors = safetensors.torch.load(data)
    facts = _facts(data)
    architecture = Architecture(
        tuple(_integer(n) for n in facts["code"]), _integer(facts["size"]), _integer(facts["width"])
    )
    if not architecture.is_legal() or not all(t.isfinite().all() for t in tensors.values()):
        raise ValueError("out of bounds")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        network = DecoderNetwork(architecture)
    mean, std = tensors.pop("mean").float(), tensors.pop("std").float()
    if mean.shape != architecture.code or std.shape != mean.shape or not (std > 0).all():
        raise ValueError("statistics do not fit")
    network.load_state_dict({_named(key): value.float() for key, value in tensors.items()})
    origin = Origin(
        str(facts["network"]), str(facts["weights_sha256"]), str(facts["layer"]),
        facts["pooled"] is True,
    )  # fmt: skip
    digest = hashlib.sha256(data).hexdigest()
    return Decoder(origin, network.eval().requires_grad_(False), mean, std, digest)


def _facts(data: bytes) -> dict[str, Any]:
    """Return what the file says of itself; its form was checked when its tensors were read."""
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = head["__metadata__"]
    if metadata["kind"] != KIND:
        raise ValueError("another kind of file")
    names = ("code", "size", "width", "network", "weights_sha256", "layer", "pooled")
    return {name: json.loads(metadata[name]) for name in names}


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("not a whole number")
    return value


def _named(key: str) -> str:
    if not key.startswith(_PREFIX):
        raise KeyError(key)
    return key.removeprefix(_PREFIX)
