"""Artifacts that are read by programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from lantern.artifacts.base import JSON, PLAIN, SAFETENSORS, Artifact, Rendering


@dataclass(frozen=True, eq=False)
class Table(Artifact):
    """Rows of plain values; the keys of the first row are the columns."""

    kind = "table"
    name: str
    rows: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def media_types(self) -> tuple[str, ...]:
        """JSON only."""
        return (JSON,)

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the rows as a JSON array."""
        self._require(media_type)
        return json.dumps([dict(row) for row in self.rows]).encode()

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return each column that has a number in every row."""
        columns = self.rows[0] if self.rows else {}
        return {
            f"{self.name}.{column}": np.array([row[column] for row in self.rows])
            for column in columns
            if all(isinstance(row[column], (int, float)) for row in self.rows)
        }


@dataclass(frozen=True, eq=False)
class Weights(Artifact):
    """Tensors that were learnt, by name, and what is known of them, as the file's metadata."""

    kind = "weights"
    name: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def media_types(self) -> tuple[str, ...]:
        """Safetensors only."""
        return (SAFETENSORS,)

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the safetensors file; the same weights give the same bytes."""
        self._require(media_type)
        # cloned, because tensors that share memory are refused
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()}
        return _ordered(safetensors.torch.save(tensors, metadata=dict(self.facts)))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return nothing: weights are had as their file."""
        return {}

    def is_finite(self) -> bool:
        """Tell whether all weights are."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors.values())


def _ordered(file: bytes) -> bytes:
    """Sort the metadata of a safetensors file, which its writer puts in another order each time."""
    start = 8 + int.from_bytes(file[:8], "little")
    head = json.loads(file[8:start])
    head["__metadata__"] = dict(sorted(head.get("__metadata__", {}).items()))
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[start:]
