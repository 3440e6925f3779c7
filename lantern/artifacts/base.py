"""What every artifact can do, and the forms there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lantern.colour import Colormap
from lantern.errors import LanternError
from lantern.image import FORMATS, GIF
from lantern.params import Params

JSON = "application/json"
NPZ = "application/x-npz"
SAFETENSORS = "application/vnd.safetensors"
# Everything an answer may be; which of these exist depends on the artifact.
FORMS = (*FORMATS, GIF, JSON, NPZ, SAFETENSORS)

Kind = Literal["picture", "heatmap", "grid", "animation", "table", "weights"]


class NotAcceptable(LanternError):
    """The artifact does not exist in the form asked for."""

    code = "not-acceptable"


class Rendering(Params):
    """How a result is turned into a picture file; the numbers behind it do not change."""

    quality: int = Field(90, ge=1, le=100, description="JPEG and WebP quality")
    colormap: Colormap = Field("auto", description="colours of a heat map; auto fits its sign")
    quantile: float = Field(
        0.995, ge=0.5, le=1, description="share of a heat map's values that its colours tell apart"
    )
    overlay: bool = Field(True, description="lay a heat map over the picture it explains")
    opacity: float = Field(
        0.55, ge=0, le=1, description="how strongly a heat map covers the picture"
    )


PLAIN = Rendering()


class Artifact(ABC):
    """One piece of a result."""

    kind: ClassVar[Kind]
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

    def array_bytes(self) -> int:
        """Return how many bytes the raw numbers have."""
        return sum(array.nbytes for array in self.arrays().values())

    def is_finite(self) -> bool:
        """Tell whether all its numbers are."""
        return all(bool(np.isfinite(array).all()) for array in self.arrays().values())

    def _require(self, media_type: str) -> None:
        if media_type not in self.media_types:
            raise NotAcceptable(
                f"there is no such form of the {self.kind} {self.name}; "
                f"ask for {', '.join(self.media_types)}"
            )
