"""Whether a picture that was made means something beyond the network that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lantern.metrics import high_frequency_share
from lantern.optimize.goals import Goal, Goals
from lantern.optimize.regularize import blur
from lantern.vision_model import LOGITS, VisionModel

# Sigma of the blur that natural pictures survive and patterns do not, px at 224.
BLUR = 2.0
# Silent objectives that a warning names.
NAMED = 8


@torch.inference_mode()
def evidence(
    model: VisionModel, goals: Sequence[Goal], pictures: Tensor
) -> tuple[Mapping[str, Any], ...]:
    """Judge pictures `[N,3,H,W]` as they are stored, in 8 bits.

    A row has the objective and what the picture reaches, the share of its spectral energy above a
    quarter of a cycle per pixel (photographs: about 0.03) and, for a class, its probability for the
    picture and for the picture blurred by 2 px.
    """
    stored = pictures.mul(255).round().div(255)
    rows: list[dict[str, Any]] = []
    batch = model.together(stored.shape[-1])
    for at in range(0, len(goals), batch):
        rows += _rows(model, goals[at : at + batch], stored[at : at + batch].to(model.device))
    return tuple(rows)


def warnings_of(goals: Sequence[Goal], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which objectives, of those that were to be excited, the pictures leave silent."""
    silent = [
        goal.text
        for goal, row in zip(goals, rows, strict=True)
        if row["value"] == 0 and any(term.weight > 0 for term in goal.terms)
    ]
    if not silent:
        return []
    named = list(dict.fromkeys(silent))
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return [
        f"of {len(rows)} pictures {len(silent)} leave their objective silent and show nothing of "
        f"it: {', '.join(named[:NAMED])}{more}; another seed, or all positions of a channel, may"
    ]


def _rows(model: VisionModel, goals: Sequence[Goal], pictures: Tensor) -> list[dict[str, Any]]:
    judged = Goals(goals)
    with model.capture([*judged.layers, LOGITS]) as features:
        seen = features(pictures)
        clear = model.probabilities(seen[LOGITS])
        dim = features(blur(pictures, BLUR * pictures.shape[-1] / 224))
        blurred = model.probabilities(dim[LOGITS])
    grain = high_frequency_share(pictures).tolist()
    rows: list[dict[str, Any]] = []
    for number, (goal, value) in enumerate(zip(goals, judged.values(seen).tolist(), strict=True)):
        best = goal.classes[0] if goal.classes else None
        rows.append(
            {
                "objective": goal.text,
                "value": round(value, 4),
                "high_frequency_share": round(grain[number], 4),
                "class": None if best is None else model.label(best),
                "probability": _probability(clear, number, best),
                "probability_blurred": _probability(blurred, number, best),
            }
        )
    return rows


def _probability(probabilities: Tensor, row: int, target: int | None) -> float | None:
    return None if target is None else round(float(probabilities[row, target]), 4)
