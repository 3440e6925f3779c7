"""Leave torch's compiler out of a process that compiles nothing.

torch's optimizers import it (`torch._dynamo`, two seconds of a core and 70 MB) only to tell it that
it has nothing to do.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import torch

NAME = "torch._dynamo"

F = TypeVar("F", bound=Callable[..., Any])


class _Compiler(ModuleType):
    """Answers what uncompiled code asks of the compiler; loads it when asked for anything else."""

    def __init__(self) -> None:
        super().__init__(NAME)
        spec = importlib.util.find_spec(NAME)
        self.__spec__, self.__file__ = spec, spec.origin if spec else None
        self._lock = threading.Lock()

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Do nothing: there is no graph."""

    @staticmethod
    def disable(function: F, recursive: bool = True, *, wrapping: bool = True) -> F:
        """Return the function: nobody compiles it."""
        return function

    def __getattr__(self, name: str) -> Any:
        # what goes through all modules asks for such names; only an import asks for the path
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        with self._lock:
            if sys.modules[NAME] is self:
                del sys.modules[NAME], torch._dynamo
                importlib.import_module("torch._dynamo")
        return getattr(sys.modules[NAME], name)


def without_compiler() -> None:
    """Let torch's compiler be loaded only when something is compiled; torch works as before."""
    if NAME not in sys.modules:
        sys.modules[NAME] = torch._dynamo = _Compiler()
