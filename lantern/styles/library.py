"""The trained style networks in `model_store/styles`: a file of weights for each, one of facts."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lantern.errors import InvalidParameter, one_of
from lantern.image import Image
from lantern.styles.engine import Engine, Hands, engine_for
from lantern.styles.files import POINTER, reading, write
from lantern.styles.network import Architecture, StyleNetwork, made
from lantern.styles.painting import Painter
from lantern.styles.prediction import painting_pixels, signature
from lantern.styles.shared import Shared, read_shared, write_shared
from lantern.vision_model import VisionModel

Kind = Literal["per-style", "many-style"]
SHARED = "shared.safetensors"


@dataclass(frozen=True)
class Style:
    """What is known of a trained style; `facts` say how it was made.

    Its own network is in `file` where there is one. What `blends` is also a hand of the network
    that all such styles share.
    """

    name: str
    title: str
    thumbnail: str
    facts: Mapping[str, Any]
    file: str | None = None
    blends: bool = False

    @property
    def kind(self) -> Kind:
        """Whether it has a network to itself."""
        return "per-style" if self.file else "many-style"


class StyleLibrary:
    """The styles in a folder; networks are loaded on first use and kept."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        engine: Callable[[StyleNetwork, Hands], Engine] = engine_for,
        looker: Callable[[], VisionModel] | None = None,
    ) -> None:
        self.folder, self._device, self._engine, self._looker = folder, device, engine, looker
        self._painters: dict[str, Painter] = {}  # by file
        self._shared: Shared | None = None
        self._lock = threading.RLock()

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
        return _named(name, self.styles())

    def painter(self, mix: Mapping[str, float]) -> Painter:
        """Return what paints in a style, or in several by their weights.

        Raises:
            UnknownName: there is no style of a name.
            InvalidParameter: a style that has only a network of its own is to be mixed.
            DamagedStyle: its weights do not fit.
        """
        known = self.styles()
        styles = [_named(name, known) for name in mix]
        if len(styles) == 1 and styles[0].file:
            return self._own_painter(styles[0].file)
        for style in styles:
            if not style.blends:
                mixable = ", ".join(s.name for s in known.values() if s.blends) or "none"
                raise InvalidParameter(
                    f"{style.name} has a network of its own and cannot be mixed; "
                    f"those that can: {mixable}",
                    pointer=POINTER,
                )
        return self.painter_of(self.shared().mixed(mix))

    def hand_of(self, painting: Image) -> Tensor:
        """Return the hand `[D]` of a painting that nothing was trained on, in one pass.

        Raises:
            DamagedStyle: there is no shared network, or its file is damaged.
        """
        assert self._looker is not None
        pixels = painting_pixels(painting)
        with torch.inference_mode():
            return self.shared().predicted(signature(self._looker(), pixels))

    def painter_of(self, hand: Tensor) -> Painter:
        """Return what paints in a hand `[D]` of the shared network.

        Raises:
            DamagedStyle: there is no shared network, or its file is damaged.
        """
        with self._lock:
            if SHARED not in self._painters:
                network = self.shared().network.to(self._device)
                self._painters[SHARED] = self._made(network, "given")
            return dataclasses.replace(self._painters[SHARED], hand=hand[None])

    def shared(self) -> Shared:
        """Return the network that many styles share.

        Raises:
            DamagedStyle: there is none, or its file is damaged.
        """
        with self._lock:
            if self._shared is None:
                self._shared = read_shared(self.folder / SHARED)
            return self._shared

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
        known = self.styles().get(name)
        style = Style(
            name, title, f"{name}.jpg", facts, f"{name}.safetensors",
            blends=known is not None and known.blends,
        )  # fmt: skip
        assert style.file is not None
        write_network(network, self.folder / style.file)
        self._note([(style, thumbnail)])
        return style

    def share(self, shared: Shared, styles: Sequence[tuple[Style, Image]]) -> None:
        """Write a shared network, and its styles with their thumbnails, into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_shared(shared, self.folder / SHARED)
        self._note(styles)

    def _own_painter(self, file: str) -> Painter:
        with self._lock:
            if file not in self._painters:
                network = read_network(self.folder / file).to(self._device)
                self._painters[file] = self._made(network, "own")
            return self._painters[file]

    def _made(self, network: StyleNetwork, hands: Hands) -> Painter:
        tiles = functools.cache(lambda: self._engine(network, "measured"))
        return Painter(network, self._engine(network, hands), tiles)

    def _note(self, styles: Sequence[tuple[Style, Image]]) -> None:
        for style, thumbnail in styles:
            (self.folder / style.thumbnail).write_bytes(thumbnail.encode("image/jpeg"))
        entries = self.styles() | {style.name: style for style, _ in styles}
        text = json.dumps({n: _entry(s) for n, s in sorted(entries.items())}, indent=2)
        temporary = self.folder / "styles.json.new"
        temporary.write_text(text + "\n")
        temporary.replace(self.folder / "styles.json")


def _named(name: str, styles: Mapping[str, Style]) -> Style:
    if name not in styles:
        raise one_of("style", name, styles, pointer=POINTER)
    return styles[name]


def write_network(network: StyleNetwork, path: Path) -> None:
    """Write weights as float16 safetensors; the header holds the architecture."""
    architecture = json.dumps(dataclasses.asdict(network.architecture))
    write(path, network.state_dict(), {"architecture": architecture})


def read_network(path: Path) -> StyleNetwork:
    """Read a network as float32.

    Raises:
        DamagedStyle: the file is missing, damaged or of another shape.
    """
    problem = f"the style's file {path.name} is missing or damaged; train the style again"
    with reading(path, problem) as (weights, facts):
        network = made(Architecture(**json.loads(facts["architecture"])))
        network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _entry(style: Style) -> dict[str, Any]:
    entry = dataclasses.asdict(style)
    del entry["name"]
    return entry
