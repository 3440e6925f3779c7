"""The decoders that a technique can ask for by name; none come with Lantern."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lantern.decoders.decoder import POINTER, Decoder, read
from lantern.errors import UnknownName


class Decoders:
    """Decoders by name; each is given as what returns the bytes of its file."""

    def __init__(self, files: Mapping[str, Callable[[], bytes]] | None = None) -> None:
        self._files = dict(files or {})

    def find(self, name: str) -> Decoder:
        """Find a decoder.

        Raises:
            UnknownName: there is none of that name.
            DamagedDecoder: its file cannot be read.
        """
        if name not in self._files:
            raise unknown()
        return read(self._files[name]())


def unknown() -> UnknownName:
    """Build the error for a decoder that is not there."""
    return UnknownName(
        "there is no such decoder; name the id of a job of yours that trained one with "
        "train-decoder, or its file where you are on the command line",
        pointer=POINTER,
        code="unknown-decoder",
    )
