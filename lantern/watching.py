"""Looking at what the layers of a network make while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from torch import Tensor, nn


class NeverRan(Exception):
    """A layer was not seen: it only holds others, or makes several things; `name` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Deepest(Exception):
    """Leaves the forward pass once every wanted layer has been seen."""


@contextmanager
def watching(
    layers: Mapping[str, nn.Module], forward: Callable[[Tensor], Tensor], *, with_last: str = ""
) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
    """Yield a function: an input of `forward` -> the first output of each of the layers.

    The pass ends at the deepest of them, unless what it ends with is wanted too, under the name
    `with_last`. An output that a later layer writes over in place is given as it was.

    Raises:
        NeverRan: (the function) a layer was not seen.
    """
    seen: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    overwritten: set[str] = set()
    is_running = False

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not is_running or not isinstance(output, Tensor):
                return  # a pass of another watch, or a layer that makes several things
            if name not in seen:
                is_inference = output.is_inference()  # such tensors tell of no writing
                seen[name] = output.clone() if is_inference or name in overwritten else output
                versions[name] = 0 if is_inference else seen[name]._version
            if not with_last and len(seen) == len(layers):
                raise _Deepest

        return hook

    def run(given: Tensor) -> dict[str, Tensor]:
        nonlocal is_running
        seen.clear()
        versions.clear()
        is_running = True
        try:
            with suppress(_Deepest):
                last = forward(given)
                if with_last:
                    seen[with_last] = last
        finally:
            is_running = False
        if missing := layers.keys() - seen.keys():
            raise NeverRan(min(missing))
        changed = {
            name
            for name, version in versions.items()
            if not seen[name].is_inference() and seen[name]._version != version
        }
        if changed:  # known from then on
            overwritten.update(changed)
            return run(given)
        return dict(seen)

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(keep(name)).remove)
        yield run
