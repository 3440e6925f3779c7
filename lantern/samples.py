"""Sample photographs that anyone may use, from scikit-image's own files."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

_FILES = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "astronaut": "astronaut.png",
    "retina": "retina.jpg",
}


@functools.cache
def photographs() -> dict[str, Path]:
    """Return the path of each sample photograph, by name; empty without scikit-image."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "data"
    return {name: folder / file for name, file in _FILES.items() if (folder / file).is_file()}
