"""Compilers that do not fit a network, in the place of the real one."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lantern.compiled import compiled as real

MISFITS = ("missing", "unknown", "wrong")


def misfit(what: str, changed: Callable[[nn.Module], nn.Module]) -> Callable[..., object]:
    """Return a compiler that is `missing`, knows nothing, or compiles another network than asked.

    That is the one `changed` makes.
    """

    def compiled(network: nn.Module, *given: object, **more: object) -> object:
        if what == "missing":
            return None
        if what == "unknown":
            raise RuntimeError("an operation nobody knows")
        return real(changed(network), *given, **more)  # type: ignore[arg-type]

    return compiled
