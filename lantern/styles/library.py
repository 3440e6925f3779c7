"""The trained style networks in `model_store/styles`: a file of weights for each, one of facts."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lantern.errors import LanternError, one_of
from lantern.image import Image
from lantern.styles.engine import Engine, engine_for
from lantern.styles.network import Architecture, StyleNetwork, pad_to_multiple


class DamagedStyle(LanternError):
    """A style's weights file is missing or does not fit its record."""

    code = "damaged-style"


@dataclass(frozen=True)
class Style:
    """What is known of a trained style; `facts` say how it was made."""

    name: str
    title: str
    kind: str
    file: str
    thumbnail: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Painter:
    """A style network ready to paint."""

    style: str
    engine: Engine

    def paint(self, image: Image) -> Image:
        """Paint a picture at its own size."""
        padded = pad_to_multiple(image.pixels[None])
        painted = self.engine.forward(padded)[0, :, : image.height, : image.width]
        return dataclasses.replace(image, pixels=painted)


class StyleLibrary:
    """The styles in a folder; networks are loaded on first use and kept."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        engine: Callable[[StyleNetwork], Engine] = engine_for,
    ) -> None:
        self.folder, self._device, self._engine = folder, device, engine
        self._painters: dict[str, Painter] = {}
        self._lock = threading.Lock()

    def styles(self) -> dict[str, Style]:
        """Return every style by name, as the facts file says now."""
        path = self.folder / "styles.json"
        entries = json.loads(path.read_text()) if path.is_file() else {}
        return {name: Style(name=name, **entry) for name, entry in sorted(entries.items())}

    def style(self, name: str) -> Style:
        """Find a style.

        Raises:
            UnknownName: there is none of that name.
        """
        styles = self.styles()
        if name not in styles:
            raise one_of("style", name, styles, pointer="/params/style")
        return styles[name]

    def painter(self, name: str) -> Painter:
        """Return the style's network, ready to paint.

        Raises:
            UnknownName: there is no style of that name.
            DamagedStyle: its weights do not fit.
        """
        with self._lock:
            if name not in self._painters:
                network = read_network(self.folder / self.style(name).file).to(self._device)
                self._painters[name] = Painter(name, self._engine(network))
            return self._painters[name]

    def add(
        self,
        name: str,
        network: StyleNetwork,
        thumbnail: Image,
        *,
        title: str,
        facts: Mapping[str, Any],
    ) -> Style:
        """Write a network, its thumbnail and its facts into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        style = Style(name, title, "per-style", f"{name}.safetensors", f"{name}.jpg", facts)
        write_network(network, self.folder / style.file)
        (self.folder / style.thumbnail).write_bytes(thumbnail.encode("image/jpeg"))
        entries = {s.name: s for s in self.styles().values()} | {name: style}
        text = json.dumps({n: _entry(s) for n, s in sorted(entries.items())}, indent=2)
        temporary = self.folder / "styles.json.new"
        temporary.write_text(text + "\n")
        temporary.replace(self.folder / "styles.json")
        return style


def write_network(network: StyleNetwork, path: Path) -> None:
    """Write weights as float16 safetensors; the header holds the architecture."""
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    architecture = json.dumps(dataclasses.asdict(network.architecture))
    save_file(weights, path, metadata={"architecture": architecture})
    path.chmod(0o644)  # safetensors makes it readable to its owner only


def read_network(path: Path) -> StyleNetwork:
    """Read a network as float32.

    Raises:
        DamagedStyle: the file is missing, damaged or of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            architecture = Architecture(**json.loads((file.metadata() or {})["architecture"]))
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            network = StyleNetwork(architecture)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedStyle(
            f"the style's file {path.name} is missing or damaged; train the style again",
            pointer="/params/style",
        ) from error
    return network.eval().requires_grad_(False)


def _entry(style: Style) -> dict[str, Any]:
    entry = dataclasses.asdict(style)
    del entry["name"]
    return entry
