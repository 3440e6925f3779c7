"""Styles that jobs have trained, put where all processes find them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from services.record import Job

if TYPE_CHECKING:
    from lantern.artifact import Result
    from lantern.styles.own import OwnStyles

TRAINER, ARTIFACT = "train-style", "style"
THUMBNAIL_SIDE = 256


def style_id(job_id: str) -> str:
    """Return the name of the style that a job trains."""
    return "sty_" + job_id.removeprefix("job_")


def publish(own: OwnStyles, job: Job, result: Result) -> str:
    """Keep the style that a job has trained under its name; the same job gives the same style.

    Raises:
        OSError: it cannot be stored.
    """
    from lantern.artifact import SAFETENSORS, Picture
    from lantern.styles.own import OwnStyle

    preview = result.principal
    (weights,) = [part for part in result.artifacts if part.name == ARTIFACT]
    assert isinstance(preview, Picture)
    params, name = result.params.model_dump(mode="json"), style_id(job.id)
    style = OwnStyle(
        name,
        job.owner,
        time.time(),
        params["title"] or "A style of yours",
        params["way"] == "quick",
        {**result.facts, "params": params, "seed": result.seed},
    )
    thumbnail = preview.image.fit(THUMBNAIL_SIDE).encode("image/jpeg")
    own.keep(style, weights.encode(SAFETENSORS), thumbnail)
    return name
