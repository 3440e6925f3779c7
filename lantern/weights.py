"""The files that networks' weights are in, read without running code."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import nn

T = TypeVar("T")

# "norm.1" inside a dense layer is "norm1" since torchvision 0.3
DOTTED = re.compile(r"\.(norm|conv|relu)\.([12])\.")

# Heads that help in training alone, of GoogLeNet and Inception-v3.
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

# What torch raises on files that are cut short, of another kind or hold something else.
DAMAGE = (
    RuntimeError, OSError, ValueError, LookupError, EOFError, AttributeError, TypeError,
    pickle.UnpicklingError,
)  # fmt: skip


def read_weights(path: Path, network: nn.Module) -> str:
    """Load a file of weights into a network, without ever unpickling code; return its SHA-256.

    Raises:
        DAMAGE: it is damaged or of another network.
    """
    network.load_state_dict(_current_keys(_read(path), network))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _current_keys(state: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """Adapt old checkpoints as torchvision does: DenseNet's dotted names, heads for training."""
    wanted = network.state_dict().keys()
    renamed = {
        key if key in wanted else DOTTED.sub(r".\1\2.", key): value for key, value in state.items()
    }
    return without_auxiliary(renamed, wanted)


def without_auxiliary(state: Mapping[str, T], wanted: Container[str]) -> dict[str, T]:
    """Leave out what is of heads for training, where the network wants none."""
    return {
        key: value for key, value in state.items() if key in wanted or not key.startswith(AUXILIARY)
    }
