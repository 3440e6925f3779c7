"""The files of style networks: float16 safetensors whose header says what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lantern.artifact import Weights
from lantern.errors import LanternError

POINTER = "/params/style"


class DamagedStyle(LanternError):
    """A style's weights file is missing or does not fit its record."""

    code = "damaged-style"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it meanwhile finds the one before, or all of this one."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)


def halves(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Weights:
    """Return tensors as a file of float16, with facts in the header."""
    return Weights(name, {key: value.half() for key, value in tensors.items()}, facts)


@contextmanager
def reading(path: Path, otherwise: str) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Give the tensors of a file, as float32, and its facts to what is made of them.

    Raises:
        DamagedStyle: the file is missing or damaged, or what is made does not fit; `otherwise` is
            what is said then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        yield tensors, facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedStyle(otherwise, pointer=POINTER) from error
