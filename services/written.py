"""What the command line writes: its form by the file's name, and further pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check(output: Path) -> None:
    """Look at the name of a file that is to be written, before what may take hours.

    Whether there will be something of its form is known only then.

    Raises:
        NotAcceptable: it says no form that is known, or there is no such folder.
    """
    from lantern.artifact import NotAcceptable

    _media_type(output)
    try:
        is_folder, is_there = output.is_dir(), output.parent.is_dir()
    except OSError as error:
        raise NotAcceptable(f"{output} cannot be written: {error.strerror}") from None
    if is_folder:
        raise NotAcceptable(f"{output} is a folder; name a file in it")
    if not is_there:
        raise NotAcceptable(f"{output} lies in no folder that exists; make it, or name another")


def encoded(result: Any, output: Path | None, rendering: Any) -> tuple[str, bytes]:
    """Return what is written, in the form that the file's name asks for."""
    from lantern.artifact import JSON, SAFETENSORS
    from lantern.call import choose, encode

    if output is None:
        wanted = JSON if result.principal.kind == "table" else "*/*"
    else:
        wanted = _media_type(output)
        trained = [part for part in result.artifacts if part.kind == "weights"]
        # the preview goes first, and yet a file of weights can only be what was trained
        if wanted == SAFETENSORS and trained:
            return wanted, trained[0].encode(wanted, rendering)
    media_type = choose(result.principal, [wanted])
    return media_type, encode(result, media_type, rendering)


def keep(result: Any, output: Path, rendering: Any) -> Path:
    """Write what does not exist in the form asked for in its own, beside; return where."""
    media_type, body = encoded(result, None, rendering)
    path = output.with_name(f"{output.name}{suffix_of(media_type)}")
    path.write_bytes(body)
    return path


def write_beside(output: Path, result: Any, rendering: Any) -> list[Path]:
    """Write further pictures and animations beside the first: `dream-picture-2.png`."""
    paths = []
    for part in result.artifacts[1:]:
        if part.kind in ("picture", "animation"):
            wanted = _media_type(output)
            form = wanted if wanted in part.media_types else part.media_types[0]
            path = output.with_name(f"{output.stem}-{part.name}{suffix_of(form)}")
            path.write_bytes(part.encode(form, rendering))
            paths.append(path)
    return paths


def suffix_of(media_type: str) -> str:
    """Return the suffix of files of a form."""
    return next(suffix for suffix, kind in _suffixes().items() if kind == media_type)


def _media_type(path: Path) -> str:
    from lantern.artifact import NotAcceptable

    known = _suffixes()
    if path.suffix.lower() not in known:
        raise NotAcceptable(f"{path.name} must end in one of {', '.join(known)}")
    return known[path.suffix.lower()]


def _suffixes() -> dict[str, str]:
    """Return the form that each suffix stands for."""
    from lantern.artifact import JSON, NPZ, SAFETENSORS
    from lantern.image import SUFFIXES

    return {**SUFFIXES, ".json": JSON, ".npz": NPZ, ".safetensors": SAFETENSORS}
