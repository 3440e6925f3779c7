"""Sample pictures that anyone may use, from scikit-image's own files."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

# The photographs a page offers first; then what else was photographed, in colour and in grey.
_PHOTOGRAPHS = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
    "astronaut": "astronaut.png",
    "retina": "retina.jpg",
}
_OTHERS = {
    "brick": "brick.png",
    "camera": "camera.png",
    "cell": "cell.png",
    "clock": "clock_motion.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "microaneurysms": "microaneurysms.png",
    "moon": "moon.png",
    "motorcycle-left": "motorcycle_left.png",
    "motorcycle-right": "motorcycle_right.png",
    "page": "page.png",
    "text": "text.png",
    "tissue": "ihc.png",
}
_TEXTURES = {"brick": "brick.png", "grass": "grass.png", "gravel": "gravel.png"}


@functools.cache
def photographs() -> dict[str, Path]:
    """Return the path of each sample photograph, by name; empty without scikit-image."""
    return _found(_PHOTOGRAPHS)


@functools.cache
def pictures() -> dict[str, Path]:
    """Return the path of each photograph and texture, by name; empty without scikit-image."""
    return _found(_PHOTOGRAPHS | _OTHERS)


@functools.cache
def textures() -> dict[str, Path]:
    """Return the path of each sample texture, 512 px a side, by name, as `photographs` does."""
    return _found(_TEXTURES)


def _found(files: dict[str, str]) -> dict[str, Path]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "data"
    return {name: folder / file for name, file in files.items() if (folder / file).is_file()}
