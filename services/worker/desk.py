"""What a worker process works with; made after the fork, since torch is imported here."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import clients
from services.clients import Stores
from services.settings import Settings, read

if TYPE_CHECKING:
    from lantern.call import Studio


@dataclass(frozen=True)
class Desk:
    """What a worker process works with."""

    settings: Settings
    stores: Stores
    studio: Studio


@functools.cache
def desk() -> Desk:
    """Make the desk of this process."""
    import torch

    from lantern.call import Studio
    from lantern.uncompiled import without_compiler

    without_compiler()
    settings = read()
    cores = os.cpu_count() or 1
    torch.set_num_threads(settings.torch_threads or max(1, cores // settings.workers))
    studio = Studio.open(settings.styles_path, settings.models_path, downloads=settings.downloads)
    return Desk(settings, clients.own_stores(), studio)
