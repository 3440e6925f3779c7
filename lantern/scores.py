"""How sure a network is of its classes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Scores = Literal["softmax", "sigmoid"]
"""Whether a network's classes exclude each other, or each is there or not for itself."""


# Relative difference of the scores up to which two ways to them are the same.
EXACT = 1e-5


def is_close(found: Tensor, wanted: Tensor, within: float = EXACT) -> bool:
    """Tell whether scores are the same but for rounding, which is a share of the largest."""
    return bool((found - wanted).abs().max() <= within * wanted.abs().max())


def probabilities(logits: Tensor, scores: Scores) -> Tensor:
    """Return the probability of each class from logits `[N,C]`."""
    return logits.sigmoid() if scores == "sigmoid" else logits.softmax(1)
