"""What a technique returns, and how each piece becomes bytes."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lantern.artifacts.base import (
    FORMS,
    JSON,
    NPZ,
    PLAIN,
    SAFETENSORS,
    Artifact,
    Kind,
    NotAcceptable,
    Rendering,
)
from lantern.artifacts.data import Table, Weights
from lantern.artifacts.pictures import Animation, Grid, Heatmap, Picture, numbered
from lantern.errors import check_size
from lantern.params import Params

if TYPE_CHECKING:
    from lantern.judging import Judging

__all__ = [
    "FORMS",
    "JSON",
    "NPZ",
    "PLAIN",
    "SAFETENSORS",
    "Animation",
    "Artifact",
    "Facts",
    "Grid",
    "Heatmap",
    "Kind",
    "NotAcceptable",
    "Outcome",
    "Picture",
    "Rendering",
    "Result",
    "Table",
    "Weights",
    "numbered",
    "with_evidence",
]


# The fact to which evidence adds.
WARNINGS = "warnings"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a technique hands back: artifacts, the principal one first, and its own findings.

    `evidence` finds out more, which takes its time: it is asked once somebody reads the facts. Its
    `warnings` come behind those there are.
    """

    artifacts: tuple[Artifact, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: Callable[[Judging], Mapping[str, Any]] | None = None

    def evidence_by(self, judging: Judging) -> Callable[[], Mapping[str, Any]] | None:
        """Return how the evidence is found out, told of and kept so."""
        return self.evidence and functools.partial(self.evidence, judging)


class Facts(Mapping[str, Any]):
    """Facts, some of which are found out only once one that is not known yet is asked for."""

    def __init__(
        self, known: Mapping[str, Any], evidence: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self._known, self._evidence = known, evidence

    def __getitem__(self, name: str) -> Any:
        is_whole = name in self._known and name != WARNINGS
        return self._known[name] if is_whole else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @functools.cached_property
    def _all(self) -> Mapping[str, Any]:
        return with_evidence(self._known, self._evidence)


def with_evidence(
    known: Mapping[str, Any], evidence: Callable[[], Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Return facts with those that evidence finds out."""
    found = evidence() if evidence else {}
    warnings = [*known.get(WARNINGS, ()), *found.get(WARNINGS, ())]
    return {**known, **found, **({WARNINGS: warnings} if warnings else {})}


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

    def array_bytes(self) -> int:
        """Return how many bytes all raw arrays have; those of a long animation are not made."""
        return sum(artifact.array_bytes() for artifact in self.artifacts)

    def npz(self, most_bytes: float = math.inf) -> bytes:
        """Return all raw arrays as one `.npz` file.

        Raises:
            AnswerTooLarge: there are more than so many bytes of arrays; they are not made then.
        """
        check_size(self.array_bytes(), most_bytes)
        out = io.BytesIO()
        arrays = {n: a for artifact in self.artifacts for n, a in artifact.arrays().items()}
        np.savez(out, allow_pickle=False, **arrays)
        return out.getvalue()
