"""Styles for the model store: a style that was trained is kept, many are trained together."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lantern import samples
from lantern.checkpoint import Checkpoints
from lantern.errors import BadImage, InvalidParameter
from lantern.image import SUFFIXES, Image
from lantern.progress import Progress, Step
from lantern.records import DEFAULT_MODEL
from lantern.styles.files import DamagedStyle, write_whole
from lantern.styles.library import Style, StyleLibrary, check_free
from lantern.styles.train import Photographs, paint_preview, small
from lantern.styles.train_shared import TrainSharedParams, train_shared
from lantern.styles.trained import read_hand, read_network
from lantern.zoo import Zoo
from services.settings import Settings

PREVIEW_EVERY = 50
STATE_EVERY_S = 60.0
# Sides (px) to which pictures are shrunk before they are kept for training.
PHOTO_SIDE, PAINTING_SIDE = 512, 400
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def keep_style(
    settings: Settings, file: Path, *, name: str, title: str, painting: str, command: str
) -> Style:
    """Add a style that `train-style` wrote to the model store.

    `painting` and `command` are kept among its facts: what it was trained on, and how.

    Raises:
        LanternError: the name or the file cannot be used, or it is of another shared network.
    """
    _check_name(name)
    try:
        with safe_open(file, framework="pt") as opened:
            said = opened.metadata() or {}
    except (OSError, SafetensorError):
        raise DamagedStyle(f"{file} is no style that train-style has written") from None
    library, facts = StyleLibrary(settings.styles_path), json.loads(said.get("facts", "{}"))
    facts |= {"painting": painting, "command": command}
    cat = _cat()
    if "architecture" in said:
        network = read_network(file)
        thumbnail = paint_preview(network, None, cat)
        return library.add(name, network, thumbnail, title=title, facts=facts)
    shared = library.shared()
    hand = read_hand(file, shared.trunk)
    thumbnail = paint_preview(shared.network, hand, cat)
    return library.add_hand(name, hand, thumbnail, title=title, facts=facts)


@dataclass(frozen=True)
class Pictures:
    """Folders of paintings, of photographs to paint, and of pictures of any other kind."""

    paintings: Path
    photos: Path
    others: Path | None = None


def train_styles(
    settings: Settings,
    params: TrainSharedParams,
    pictures: Pictures,
    *,
    judge: str,
    seed: int,
    start: str | None,
    state: Path | None,
    preview: Path | None,
    command: str,
    progress: Progress,
) -> list[Style]:
    """Train one network for all paintings of a folder and make it the shared one of the store.

    Styles are called as their files are. `start` names a style whose network is begun with;
    `state` is a file from which a run that was broken off goes on.

    Raises:
        LanternError: a name, a painting or the photographs cannot be used.
    """
    started = time.monotonic()
    library, zoo = StyleLibrary(settings.styles_path), Zoo(downloads=True)
    paths = {path.stem.replace("_", "-"): path for path in _files(pictures.paintings)}
    for name in paths:
        _check_name(name)
    paintings = {name: _read(path) for name, path in paths.items()}
    photos = [small(_read(path), PHOTO_SIDE) for path in _files(pictures.photos)]
    more = _files(pictures.others) if pictures.others else []
    unlike = [small(p, PAINTING_SIDE) for p in [*paintings.values(), *map(_read, more)]]
    # as many paintings as photographs are looked at to learn what hands look like
    looked_at = photos + unlike * max(1, len(photos) // len(unlike))

    def watch(step: Step) -> None:
        progress(step)
        if preview is not None and (step.done % PREVIEW_EVERY == 0 or step.done == step.total):
            preview.write_bytes(step.preview().encode("image/png"))

    begin = read_network(library.folder / f"{start}.safetensors") if start else None
    cat = _cat()
    shared, trace = train_shared(
        paintings, Photographs(looked_at, PAINTING_SIDE * 2 // 3), Photographs(photos, params.crop),
        cat, zoo.load(judge), zoo.load(DEFAULT_MODEL), params,
        progress=watch, generator=torch.Generator().manual_seed(seed),
        checkpoints=_checkpoints(state), start=begin,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "judge": judge,
        "params": params.model_dump(mode="json"),
        "seed": seed,
        "losses": {
            "first": round(sum(trace.losses[:50]) / len(trace.losses[:50]), 4),
            "last": round(sum(trace.losses[-50:]) / len(trace.losses[-50:]), 4),
        },
        "trunk": shared.trunk,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started),
        "command": command,
    }
    known, styles = library.styles(), []
    for name, hand in shared.hands.items():
        title = known[name].title if name in known else name.replace("-", " ").capitalize()
        file = known[name].file if name in known else None
        own = facts | {"painting": paths[name].name}
        style = Style(name, title, f"{name}.jpg", own, file, blends=True)
        styles.append((style, paint_preview(shared.network, hand, cat)))
    library.share(shared, styles)
    return [style for style, _ in styles]


def _checkpoints(state: Path | None) -> Checkpoints | None:
    """Keep the state of a run in a file, and go on from what is there."""
    if state is None:
        return None

    saved = state.read_bytes() if state.exists() else None
    return Checkpoints(partial(write_whole, state), saved, every_s=STATE_EVERY_S)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > 64:
        raise InvalidParameter(
            f"{name!r} is no style's name: small letters and digits joined by hyphens"
        )
    check_free(name)


def _files(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise BadImage(f"{folder} holds no JPEG, PNG, WebP or GIF pictures")
    return paths


def _read(path: Path) -> Image:
    try:
        return Image.decode(path.read_bytes())
    except OSError as error:
        raise BadImage(f"{path} cannot be read: {error.strerror}") from None


def _cat() -> Image:
    return _read(samples.photographs()["cat"])
