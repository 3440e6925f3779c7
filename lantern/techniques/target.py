"""Which class a technique explains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.vision_model import VisionModel

# Longest side of a map, px: networks look at a few hundred pixels, and maps are float32.
LARGEST_MAP = 2048


def require_grid(activation: Tensor, layer: str) -> None:
    """Make sure that what a layer made of pictures, `[N,C,h,w]`, has rows and columns.

    Raises:
        InvalidParameter: it has none.
    """
    if activation.dim() != 4:
        raise InvalidParameter(
            f"layer {layer} has no rows and columns; choose a convolutional layer",
            pointer="/params/layer",
        )


def check_channel(channel: int, count: int, layer: str) -> None:
    """Make sure that a layer of `count` channels has one of that number.

    Raises:
        InvalidParameter: it has not.
    """
    if channel >= count:
        raise InvalidParameter(
            f"channel is {channel}; layer {layer} has the channels 0 to {count - 1}",
            pointer="/params/channel",
        )


def choose_class(model: VisionModel, logits: Tensor, target: int | None) -> int:
    """Return `target`, or the network's first choice where it is None; `logits` is `[1,C]`.

    Raises:
        InvalidParameter: the network has no such class.
    """
    if target is None:
        return int(logits[0].argmax())
    return model.check_class(target, logits.shape[1])


def class_facts(model: VisionModel, logits: Tensor, target: int) -> dict[str, Any]:
    """Say which class was explained and how sure the network is of it."""
    scores = logits.detach()[0]
    return {
        "class": {
            "index": target,
            "label": model.label(target),
            "probability": round(float(scores.softmax(0)[target]), 6),
            "logit": round(float(scores[target]), 4),
        }
    }
