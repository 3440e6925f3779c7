"""Which class a technique explains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lantern.errors import InvalidParameter
from lantern.vision_model import VisionModel

# Longest side of a map, px: networks look at a few hundred pixels, and maps are float32.
LARGEST_MAP = 2048


def require_grid(activation: Tensor, layer: str) -> None:
    """Make sure that what a layer made of a picture, `[1,C,h,w]`, has rows and columns of it.

    Raises:
        InvalidParameter: it has none, or those of parts of the picture.
    """
    require_whole(activation, layer, 1)
    if activation.dim() != 4:
        raise InvalidParameter(
            f"layer {layer} has no rows and columns; choose a convolutional layer",
            pointer="/params/layer",
        )


def require_whole(activation: Tensor, layer: str, pictures: int) -> None:
    """Make sure that a layer made one thing `[N,...]` of each of so many pictures.

    Raises:
        InvalidParameter: it made one of each window, which has places of its own.
    """
    if len(activation) != pictures:
        raise InvalidParameter(
            f"layer {layer} runs on parts of the picture; choose the block around it",
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
    probability = model.probabilities(logits.detach())[0, target]
    return {
        "class": {
            "index": target,
            "label": model.label(target),
            "probability": round(float(probability), 6),
            "logit": round(float(logits[0, target]), 4),
        }
    }
