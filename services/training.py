"""Training a style from files into the library."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import torch

from lantern import samples
from lantern.errors import BadImage, InvalidParameter
from lantern.image import SUFFIXES, Image
from lantern.progress import Progress, Step
from lantern.styles.library import Style, StyleLibrary
from lantern.styles.train import TrainedStyle, TrainStyleParams, paint_preview, train_style
from lantern.zoo import Zoo
from services.settings import Settings

PREVIEW_EVERY = 50
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def train_into_library(
    settings: Settings,
    params: TrainStyleParams,
    *,
    painting: Path,
    photos: Path,
    name: str,
    title: str,
    loss_model: str,
    seed: int,
    preview: Path | None,
    progress: Progress,
) -> Style:
    """Train a network for a painting and add it to the model store.

    Raises:
        LanternError: the name, the painting or the photographs cannot be used.
    """
    if not NAME.fullmatch(name) or len(name) > 64:
        raise InvalidParameter("a style's name is small letters and digits joined by hyphens")
    held_out = _held_out()
    started = time.monotonic()

    def watch(step: Step) -> None:
        progress(step)
        if preview is not None and (step.done % PREVIEW_EVERY == 0 or step.done == step.total):
            preview.write_bytes(step.preview().encode("image/png"))

    trained = train_style(
        Image.decode(_bytes(painting)),
        [picture.to_uint8() for picture in read_folder(photos)],
        held_out,
        Zoo(downloads=True).load(loss_model),
        params,
        progress=watch,
        generator=torch.Generator().manual_seed(seed),
    )
    facts = _facts(trained, params, painting, loss_model, seed) | {
        "seconds": round(time.monotonic() - started),
        "command": _command(params, painting, photos, name, title, loss_model, seed),
    }
    thumbnail = paint_preview(trained.network, held_out)
    return StyleLibrary(settings.styles_path).add(
        name, trained.network, thumbnail, title=title, facts=facts
    )


def read_folder(folder: Path) -> list[Image]:
    """Decode every picture of a folder.

    Raises:
        BadImage: the folder has none, or one of them cannot be decoded.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise BadImage(f"{folder} holds no JPEG, PNG or WebP pictures")
    return [Image.decode(_bytes(path)) for path in paths]


def _held_out() -> Image:
    return Image.decode(_bytes(samples.photographs()["cat"]))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"{path} cannot be read: {error.strerror}") from None


def _facts(
    trained: TrainedStyle, params: TrainStyleParams, painting: Path, loss_model: str, seed: int
) -> dict[str, Any]:
    return {
        "painting": painting.name,
        "loss_model": loss_model,
        "params": params.model_dump(mode="json"),
        "seed": seed,
        "losses": {
            "first": round(trained.trace.losses[0], 4),
            "last": round(trained.trace.losses[-1], 4),
            "style": round(trained.style_loss, 4),
            "content": round(trained.content_loss, 4),
        },
        "torch": torch.__version__,
    }


def _command(
    params: TrainStyleParams,
    painting: Path,
    photos: Path,
    name: str,
    title: str,
    loss_model: str,
    seed: int,
) -> str:
    changed = params.model_dump(mode="json", exclude_defaults=True)
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in changed.items())
    return (
        f"lantern train-style {painting.name} --name {name} --title '{title}' "
        f"--photos {photos.name} --loss-model {loss_model} --seed {seed} {options}"
    ).strip()
