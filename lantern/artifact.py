"""What a technique returns, and how each piece becomes bytes."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lantern.colour import Colormap, colourise
from lantern.errors import LanternError
from lantern.image import FORMATS, Image
from lantern.params import Params

JSON = "application/json"
NPZ = "application/x-npz"


class NotAcceptable(LanternError):
    """The artifact does not exist in the form asked for."""

    code = "not-acceptable"


class Rendering(Params):
    """How a result is turned into a picture file; the numbers behind it do not change."""

    quality: int = Field(90, ge=1, le=100, description="JPEG and WebP quality")
    colormap: Colormap = Field("auto", description="colours of a heat map; auto fits its sign")
    overlay: bool = Field(True, description="lay a heat map over the picture it explains")
    opacity: float = Field(
        0.55, ge=0, le=1, description="how strongly a heat map covers the picture"
    )


PLAIN = Rendering()


class Artifact(ABC):
    """One piece of a result."""

    kind: ClassVar[Literal["picture", "heatmap", "table"]]
    name: str

    @property
    @abstractmethod
    def media_types(self) -> tuple[str, ...]:
        """The forms it exists in, the preferred one first."""

    @abstractmethod
    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the bytes of one form.

        Raises:
            NotAcceptable: it does not exist in that form.
        """

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the raw numbers, un-normalised, by name."""

    def is_finite(self) -> bool:
        """Tell whether all its numbers are."""
        return all(bool(np.isfinite(array).all()) for array in self.arrays().values())

    def _require(self, media_type: str) -> None:
        if media_type not in self.media_types:
            raise NotAcceptable(
                f"{self.name} is a {self.kind}; ask for {', '.join(self.media_types)}"
            )


@dataclass(frozen=True, eq=False)
class Picture(Artifact):
    """A picture the technique made."""

    kind = "picture"
    name: str
    image: Image

    @property
    def media_types(self) -> tuple[str, ...]:
        """JPEG first, unless that would lose transparency."""
        order = tuple(FORMATS)
        return order if self.image.alpha is None else tuple(sorted(order, key=_keeps_alpha))

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the picture's file."""
        self._require(media_type)
        return self.image.encode(media_type, rendering.quality)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[3,H,W]`, sRGB, 0..1."""
        return {self.name: self.image.pixels.detach().cpu().numpy()}


@dataclass(frozen=True, eq=False)
class Heatmap(Artifact):
    """A signed map `[H,W]` over a picture, in the technique's own unit."""

    kind = "heatmap"
    name: str
    values: Tensor
    under: Image

    @property
    def media_types(self) -> tuple[str, ...]:
        """Any picture format."""
        return tuple(FORMATS)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return float(self.values.min()), float(self.values.max())

    def encode(self, media_type: str, rendering: Rendering = PLAIN) -> bytes:
        """Return the coloured map, laid over the picture or alone."""
        self._require(media_type)
        colours = colourise(self.values, rendering.colormap)
        if rendering.overlay:
            colours = torch.lerp(self.under.pixels, colours, rendering.opacity)
        return Image(colours).encode(media_type, rendering.quality)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return float32 `[H,W]`, signed."""
        return {self.name: self.values.detach().cpu().numpy()}


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
        import json

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
class Outcome:
    """What a technique hands back: artifacts, the principal one first, and its own findings."""

    artifacts: tuple[Artifact, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """Artifacts, the principal one first, and the facts needed to trust and repeat them."""

    technique: str
    params: Params
    seed: int
    artifacts: tuple[Artifact, ...]
    facts: Mapping[str, Any]

    @property
    def principal(self) -> Artifact:
        """The artifact a caller sees first."""
        return self.artifacts[0]

    def npz(self) -> bytes:
        """Return all raw arrays as one `.npz` file."""
        out = io.BytesIO()
        arrays = {n: a for artifact in self.artifacts for n, a in artifact.arrays().items()}
        np.savez(out, allow_pickle=False, **arrays)
        return out.getvalue()


def _keeps_alpha(media_type: str) -> int:
    return ("image/png", "image/webp", "image/jpeg").index(media_type)
