"""How sure a network is of its classes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Scores = Literal["softmax", "sigmoid"]
"""Whether a network's classes exclude each other, or each is there or not for itself."""


def probabilities(logits: Tensor, scores: Scores) -> Tensor:
    """Return the probability of each class from logits `[N,C]`."""
    return logits.sigmoid() if scores == "sigmoid" else logits.softmax(1)
