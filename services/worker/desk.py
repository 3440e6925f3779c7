"""What a worker process works with; made after the fork, since torch is imported here."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import clients
from services.files import Files
from services.jobs import Jobs
from services.settings import Settings, read

if TYPE_CHECKING:
    from lantern.call import Studio


@dataclass(frozen=True)
class Desk:
    """What a worker process works with."""

    settings: Settings
    jobs: Jobs
    files: Files
    studio: Studio


@functools.cache
def desk() -> Desk:
    """Make the desk of this process."""
    from pathlib import Path

    import torch

    from lantern.call import Studio
    from lantern.styles.library import StyleLibrary
    from lantern.zoo import Zoo

    settings = read()
    cores = os.cpu_count() or 1
    torch.set_num_threads(settings.torch_threads or max(1, cores // settings.workers))
    torch.set_flush_denormal(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    client = clients.connect(settings)
    return Desk(
        settings,
        clients.jobs(settings, client),
        clients.files(settings, client),
        Studio(
            Zoo(downloads=settings.downloads, device=device),
            StyleLibrary(Path(settings.styles_path), device=device),
        ),
    )
