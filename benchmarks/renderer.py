"""torch-lucent, whose import needs what torchvision lacks beside a CPU build of torch."""

from __future__ import annotations

import lantern.torchvision_import  # noqa: F401

# isort: split
from lucent.optvis import objectives, param, render

__all__ = ["objectives", "param", "render"]
