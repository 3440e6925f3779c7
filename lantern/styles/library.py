"""The trained style networks in `model_store/styles`: a file of weights for each, one of facts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lantern.artifact import SAFETENSORS
from lantern.errors import InvalidParameter, one_of
from lantern.image import Image
from lantern.stamp import Stamp, is_replaced, stamp
from lantern.styles.engine import Engine, Hands, engine_for
from lantern.styles.files import POINTER, write_whole
from lantern.styles.network import StyleNetwork
from lantern.styles.own import THUMBNAIL, WEIGHTS, OwnStyle, OwnStyles
from lantern.styles.painting import Painter
from lantern.styles.prediction import painting_pixels, signature
from lantern.styles.shared import Shared, read_shared, write_shared
from lantern.styles.trained import network_weights, read_hand, read_network
from lantern.vision_model import VisionModel

Kind = Literal["per-style", "many-style"]
SHARED, FACTS = "shared.safetensors", "styles.json"
# Networks of their own that are kept in memory, of which callers may have any number.
MOST_KEPT = 16


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


@dataclass(frozen=True)
class _Listed:
    """The facts file as it was when it had that stamp."""

    stamp: Stamp
    styles: Mapping[str, Style]
    digest: str


class StyleLibrary:
    """The styles in a folder and those of callers' own; networks are loaded on first use.

    `looker` loads the network that looks at paintings of which only a hand is to be told.
    """

    def __init__(
        self,
        folder: Path,
        *,
        own: OwnStyles | None = None,
        device: str = "cpu",
        engine: Callable[[StyleNetwork, Hands], Engine] = engine_for,
        looker: Callable[[], VisionModel] | None = None,
    ) -> None:
        self.folder, self.own = folder, own or OwnStyles(None)
        self._device, self._engine, self._looker = device, engine, looker
        # by file with its stamp, the last used last
        self._painters: dict[str, tuple[Stamp, Painter]] = {}
        self._listed: _Listed | None = None
        self._shared: Shared | None = None
        self._shared_as: Stamp = ()
        self._many: Painter | None = None
        self._lock = threading.RLock()

    def styles(self) -> dict[str, Style]:
        """Return every style of the folder by name, as its facts file says now."""
        return dict(self._now().styles)

    def version(self) -> str:
        """Return what changes with the styles of the folder."""
        return self._now().digest

    def _now(self) -> _Listed:
        """Read the facts file, unless it is as it was."""
        path = self.folder / FACTS
        now = stamp(path)
        if self._listed is None or self._listed.stamp != now:
            text = path.read_text() if now else "{}"
            entries = sorted(json.loads(text).items())
            styles = {name: Style(name=name, **entry) for name, entry in entries}
            self._listed = _Listed(now, styles, hashlib.sha256(text.encode()).hexdigest())
        return self._listed

    def style(self, name: str) -> Style:
        """Find a style.

        Raises:
            UnknownName: there is none of that name.
        """
        return self._found([name])[0]

    def of_a_caller(self, entry: OwnStyle) -> Style:
        """Return a style of a caller's own."""
        file = None if entry.blends else str(self.own.path(entry.id, WEIGHTS))
        thumbnail = str(self.own.path(entry.id, THUMBNAIL))
        return Style(entry.id, entry.title, thumbnail, entry.facts, file, entry.blends)

    def check(self, mix: Mapping[str, float]) -> list[Style]:
        """Return the styles of a mixture.

        Raises:
            UnknownName: there is no style of a name.
            InvalidParameter: a style that has only a network of its own is to be mixed.
        """
        styles = self._found(mix)
        for style in styles:
            if not style.blends and len(styles) > 1:
                mixable = ", ".join(s.name for s in self.styles().values() if s.blends) or "none"
                raise InvalidParameter(
                    f"{style.name} has a network of its own and cannot be mixed; "
                    f"those that can: {mixable}",
                    pointer=POINTER,
                )
        return styles

    def painter(self, mix: Mapping[str, float]) -> Painter:
        """Return what paints in a style, or in several by their weights.

        Source: Dumoulin et al. 2017, section 3.4, for the weighted sum of hands.

        Raises:
            UnknownName: there is no style of a name.
            InvalidParameter: a style that has only a network of its own is to be mixed.
            DamagedStyle: its weights do not fit.
        """
        styles = self.check(mix)
        if len(styles) == 1 and styles[0].file:
            return self._own_painter(styles[0].file)
        hands = [mix[style.name] * self._hand(style.name) for style in styles]
        return self.painter_of(torch.stack(hands).sum(0))

    def hand_of(self, painting: Image) -> Tensor:
        """Return the hand `[D]` of a painting that nothing was trained on, in one pass.

        Raises:
            DamagedStyle: there is no shared network, or its file is damaged.
        """
        assert self._looker is not None
        looker = self._looker()
        with torch.inference_mode():
            seen = signature(looker, painting_pixels(painting).to(looker.device))
        return self.shared().predicted(seen.cpu())

    def painter_of(self, hand: Tensor) -> Painter:
        """Return what paints in a hand `[D]` of the shared network.

        Raises:
            DamagedStyle: there is no shared network, or its file is damaged.
        """
        with self._lock:
            shared = self.shared()
            if self._many is None:
                self._many = self._made(shared.network.to(self._device), "given")
            return dataclasses.replace(self._many, hand=hand[None])

    def shared(self) -> Shared:
        """Return the network that many styles share.

        Raises:
            DamagedStyle: there is none, or its file is damaged.
        """
        with self._lock:
            path = self.folder / SHARED
            if self._shared is None or is_replaced(path, self._shared_as):
                now = stamp(path)
                self._shared, self._many = read_shared(path), None
                self._shared_as = now
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
        """Write a network, its thumbnail and its facts into the folder.

        Raises:
            InvalidParameter: its file would be that of the shared network.
        """
        check_free(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self.styles().get(name)
        style = Style(
            name, title, f"{name}.jpg", facts, f"{name}.safetensors",
            blends=known is not None and known.blends,
        )  # fmt: skip
        assert style.file is not None
        data = network_weights(name, network, {}).encode(SAFETENSORS)
        write_whole(self.folder / style.file, data)
        self._note([(style, thumbnail)])
        return style

    def add_hand(
        self,
        name: str,
        hand: Tensor,
        thumbnail: Image,
        *,
        title: str,
        facts: Mapping[str, Any],
    ) -> Style:
        """Add a hand `[D]` of the shared network, its thumbnail and its facts.

        Raises:
            DamagedStyle: there is no shared network, or its file is damaged.
        """
        known = self.styles().get(name)
        file = known.file if known is not None else None
        style = Style(name, title, f"{name}.jpg", facts, file, blends=True)
        shared = self.shared()
        more = dataclasses.replace(shared, hands={**shared.hands, name: hand})
        self.share(more, [(style, thumbnail)])
        return style

    def share(self, shared: Shared, styles: Sequence[tuple[Style, Image]]) -> None:
        """Write a shared network, and its styles with their thumbnails, into the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_shared(shared, self.folder / SHARED)
        self._note(styles)
        with self._lock:
            self._shared = self._many = None

    def _found(self, names: Iterable[str]) -> list[Style]:
        known = self.styles()
        return [
            self.of_a_caller(entry) if (entry := self.own.entry(name)) else _named(name, known)
            for name in names
        ]

    def _hand(self, name: str) -> Tensor:
        shared = self.shared()
        if name in shared.hands:
            return shared.hands[name]
        return read_hand(self.own.path(name, WEIGHTS), shared.trunk)

    def _own_painter(self, file: str) -> Painter:
        with self._lock:
            path = self.folder / file
            was, painter = self._painters.pop(file, ((), None))
            if painter is None or is_replaced(path, was):
                was = stamp(path)
                network = read_network(path).to(self._device)
                painter = self._made(network, "own")
            while len(self._painters) >= MOST_KEPT:
                self._painters.pop(next(iter(self._painters)))
            self._painters[file] = was, painter
            return painter

    def _made(self, network: StyleNetwork, hands: Hands) -> Painter:
        tiles = functools.cache(lambda: self._engine(network, "measured"))
        return Painter(network, self._engine(network, hands), tiles)

    def _note(self, styles: Sequence[tuple[Style, Image]]) -> None:
        for style, thumbnail in styles:
            write_whole(self.folder / style.thumbnail, thumbnail.encode("image/jpeg"))
        entries = self.styles() | {style.name: style for style, _ in styles}
        text = json.dumps({n: _entry(s) for n, s in sorted(entries.items())}, indent=2)
        write_whole(self.folder / FACTS, f"{text}\n".encode())


def check_free(name: str) -> None:
    """Refuse a name whose file would take the place of the shared network's.

    Raises:
        InvalidParameter: it would.
    """
    if f"{name}.safetensors" == SHARED:
        raise InvalidParameter(
            f"{SHARED} is the network that many styles share: choose another name than {name}"
        )


def _named(name: str, styles: Mapping[str, Style]) -> Style:
    if name not in styles:
        raise one_of("style", name, styles, pointer=POINTER)
    return styles[name]


def _entry(style: Style) -> dict[str, Any]:
    entry = dataclasses.asdict(style)
    del entry["name"]
    return entry
