"""The base of every technique's parameters."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """A frozen record of parameters; unknown fields, infinities and NaN are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    def steps_of_evidence(self, own: int) -> int:
        """Return how many steps of progress come behind a run's own: none without evidence."""
        return 0
