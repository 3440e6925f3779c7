"""What networks trained on ImageNet have in common."""

from __future__ import annotations

import functools
from pathlib import Path

CLASSES = Path(__file__).with_name("imagenet_classes.txt")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the 1,000 ImageNet class names in order, as torchvision has them."""
    # from a file of ours: the import of torchvision takes longer than that of all of Lantern
    return tuple(CLASSES.read_text().splitlines())
