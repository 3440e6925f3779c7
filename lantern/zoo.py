"""Networks in memory: how they are built, and how their weights are found."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
import urllib.error
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lantern.errors import WeightsMissing
from lantern.records import DEFAULT_MODEL, YOURS, Record, record
from lantern.stamp import Stamp, is_replaced, stamp
from lantern.vision_model import VisionModel
from lantern.weights import DAMAGE, read_weights

log = logging.getLogger("lantern")


@dataclass(frozen=True)
class _Loaded:
    """A network with its file of weights, as it was when it was read."""

    model: VisionModel
    path: Path
    stamp: Stamp


class Zoo:
    """Loaded networks, at most `keep` of them; the least recently used one goes first.

    `downloads` allows fetching weights that are not on this machine; `find` finds a network's
    record by its name.
    """

    def __init__(
        self,
        *,
        downloads: bool = True,
        keep: int = 3,
        device: str = "cpu",
        find: Callable[[str], Record] = record,
    ) -> None:
        self.downloads, self._keep, self._device, self._find = downloads, keep, device, find
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, name: str = DEFAULT_MODEL) -> VisionModel:
        """Return the network, loading it on first use and when its weights are replaced.

        What is in memory stays good while the file that replaces its own cannot be read.

        Raises:
            UnknownName: no network has that name.
            WeightsMissing: its weights are not here and cannot be fetched.
        """
        with self._lock:
            known = self._loaded.get(name)
            if known is None or is_replaced(known.path, known.stamp):
                self._loaded[name] = known = self._read(self._find(name), known)
                while len(self._loaded) > self._keep:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return known.model

    def _read(self, rec: Record, known: _Loaded | None) -> _Loaded:
        path = rec.weights_path()
        before = stamp(path)
        try:
            model = load(rec, downloads=self.downloads).to(self._device)
        except WeightsMissing as error:
            if known is None:
                raise
            log.warning("the network in memory is kept: %s", error)
            return dataclasses.replace(known, stamp=before)
        return _Loaded(model, path, before or stamp(path))


def load(rec: Record, *, downloads: bool) -> VisionModel:
    """Build a network and load its weights, without ever unpickling code.

    Raises:
        WeightsMissing: the weights are not here and cannot be fetched, or do not fit.
    """
    path = rec.weights_path()
    check_weights(rec, downloads=downloads)
    if not path.is_file():
        fetch(rec)
    network = rec.build()
    try:
        digest = read_weights(path, network)
    except DAMAGE as error:
        raise WeightsMissing(
            f"the weights file {path.name} of {rec.name} is damaged or of another network; "
            "delete it and fetch it again",
            pointer="/params/model",
        ) from error
    return presented(rec, network, digest)


@functools.cache
def sketch(name: str) -> VisionModel:
    """Return a network without its weights: its layers, shapes and costs are known, no values.

    Raises:
        UnknownName: no network has that name.
    """
    return sketched(record(name))


def sketched(rec: Record) -> VisionModel:
    """Return a network without its weights, by its record."""
    with torch.device("meta"):
        return presented(rec, rec.build(), "")


def presented(rec: Record, network: nn.Module, weights_sha256: str) -> VisionModel:
    """Return a network as techniques see it."""
    return VisionModel(
        rec.name,
        network,
        mean=rec.mean,
        std=rec.std,
        input_size=rec.input_size,
        resize_size=rec.resize_size,
        any_size=rec.any_size,
        labels=rec.class_labels,
        weights_sha256=weights_sha256,
        style_layers=rec.style_layers,
        content_layers=rec.content_layers,
        dream_layer=rec.dream_layer,
        cam_layer=rec.cam_layer,
        scores=rec.scores,
    )


def check_weights(rec: Record, *, downloads: bool) -> None:
    """Make sure that the weights are here, or may be fetched.

    Raises:
        WeightsMissing: neither.
    """
    if not downloads and not rec.weights_path().is_file():
        raise _missing(rec, "are not on this machine")


def fetch(rec: Record) -> Path:
    """Download the weights unless they are here, and check them against the digest in their name.

    Raises:
        WeightsMissing: they cannot be had.
    """
    path = rec.weights_path()
    if path.is_file():
        return path
    if rec.weights_url is None:
        raise WeightsMissing(
            f"the weights of {rec.name} belong to a package that is not installed; install all "
            "that Lantern requires",
            pointer="/params/model",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = path.stem.rsplit("-", 1)[-1]
    try:
        torch.hub.download_url_to_file(rec.weights_url(), str(path), digest, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise _missing(rec, "could not be downloaded") from error
    return path


def _missing(rec: Record, why: str) -> WeightsMissing:
    if rec.licence == YOURS:
        return WeightsMissing(
            f"the weights of {rec.name} are gone; bring the network again", pointer="/params/model"
        )
    return WeightsMissing(
        f"the weights of {rec.name} {why}; run `lantern models --fetch {rec.name}` there (how in "
        f"containers, docs/operate.md says), or put {rec.weights_path().name} into "
        "$TORCH_HOME/hub/checkpoints",
        pointer="/params/model",
    )
