"""Keeping the state of a long run, so that another process can go on with it."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch

import lantern
from lantern.errors import LanternError
from lantern.progress import Suspended

Tensors = dict[str, torch.Tensor]
# Share of a run's time that keeping its state may take.
MOST_COST = 0.02
# How many of the last savings tell what one costs.
LATEST = 2
# A state of so many bytes is cheap to keep, whatever a busy machine makes of it.
SMALL = 2**24
# Usual pauses that may pass between two savings of one, or of any while their costs are learnt.
LONGEST = 2
# What comes of using a state that is damaged, or of another run.
MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError)
# What comes besides of reading one: torch asserts what it takes for granted.
UNREADABLE = (EOFError, AssertionError, struct.error, pickle.UnpicklingError)


class DamagedCheckpoint(LanternError):
    """The state that was kept cannot be gone on from; the run has to begin anew."""

    code = "damaged-checkpoint"


@contextlib.contextmanager
def restoring() -> Iterator[None]:
    """Put back what was kept, though it may be of a run of another shape.

    Raises:
        DamagedCheckpoint: it does not fit.
    """
    try:
        yield
    except MISFITS as error:
        raise DamagedCheckpoint("the state that was kept does not fit the run") from error


def never() -> bool:
    """Say that the run is to go on."""
    return False


@dataclass(frozen=True)
class Resumed:
    """Where a stage of a run goes on: the losses it had, and whether it was over already.

    `settling` is what tells when it has settled.
    """

    losses: tuple[float, ...] = ()
    settled: bool = False
    over: bool = False
    settling: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Checkpoints:
    """Saves the state of a run now and then, and restores the one it was made with.

    A run has one or more stages, numbered from 0, each one optimisation. The state is what the next
    step depends on: parameters, optimiser, generator, losses, of the stages that are over the
    parameters and the generator they ended with, and what was remembered on the way. `save`
    receives it as bytes that `torch.load(weights_only=True)` reads; the run goes on once it
    returns, maybe with the seconds of a core that are spent on it besides. A resumed run ends in
    the same bytes as an unbroken one.

    A state is good only for the `technique` that kept it, and under the same version.

    The state is saved every `every_s` seconds, or more rarely where that would take more than the
    share `most_cost` of the time: a small one at least every second time. When `suspend` says so,
    it is saved behind the next step and the run stops.

    Raises:
        DamagedCheckpoint: `saved` is not a state, or another's.
    """

    def __init__(
        self,
        save: Callable[[bytes], float | None] | None = None,
        saved: bytes | None = None,
        *,
        every_s: float = 5.0,
        most_cost: float = MOST_COST,
        suspend: Callable[[], bool] = never,
        technique: str = "",
    ) -> None:
        self._save, self._suspend = save, suspend
        self._every_s, self._most_cost, self._technique = every_s, most_cost, technique
        self._state: dict[str, Any] | None = _read(saved, technique) if saved else None
        self._ended: list[dict[str, Any]] = list(self._state["ended"]) if self._state else []
        self._remembered: dict[str, torch.Tensor] = (
            dict(self._state.get("remembered", {})) if self._state else {}
        )
        # what runs without an optimiser keep, by part
        self._tensors: dict[str, Callable[[], Tensors]] = {}
        if self._state and "tensors" in self._state:
            kept, self._state = self._state["tensors"], None
            with restoring():
                self._tensors = {part: partial(dict, tensors) for part, tensors in kept.items()}
        self._saved_at = time.monotonic()
        self._costs_s: deque[float] = deque(maxlen=LATEST)
        self._size = 0

    def restore(
        self, stage: int, optimizer: torch.optim.Optimizer, generator: torch.Generator | None
    ) -> Resumed:
        """Put a stage's parameters, optimiser and generator back as they were saved.

        Of a stage that is over, parameters and generator are put back as it left them.

        Raises:
            DamagedCheckpoint: what was saved does not fit.
        """
        if stage < len(self._ended):
            ended = self._ended[stage]
            with restoring():
                _put_back(ended, optimizer if ended["parameters"] else None, generator)
                return Resumed(tuple(ended["losses"]), ended["settled"], over=True)
        state, self._state = self._state, None
        if state is None:
            return Resumed()
        with restoring():
            _put_back(state, optimizer, generator)
            optimizer.load_state_dict(state["optimizer"])
            return Resumed(tuple(state["losses"]), settling=state["settling"])

    def keep(
        self,
        losses: Sequence[float],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None,
        settling: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Save the state behind a step, if the last time was long enough ago.

        `settling` is what tells when the run has settled.

        Raises:
            Suspended: the run is to go on later, from the state that was just saved.
        """
        self._tensors.clear()  # of what came before the optimisation, and is over
        passed: dict[str, Any] = {
            "ended": list(self._ended),
            "remembered": dict(self._remembered),
            "settling": dict(settling or {}),
        }
        self._keep(lambda: passed | _written(losses, optimizer, generator))

    def restore_tensors(self) -> Tensors | None:
        """Return what `keep_tensors` kept last; None where the run begins anew, or optimises."""
        return self._restore_part("")

    def keep_tensors(self, tensors: Callable[[], Tensors]) -> None:
        """Save the state of a run without an optimiser, as `keep` does.

        Raises:
            Suspended: the run is to go on later, from the state that was just saved.
        """
        self._keep_part("", tensors)

    def part(self, name: str) -> Checkpoints:
        """Return those of a run within this one, whose tensors are kept beside those of the others.

        What an ended one has kept stays in the state, which makes its tensors again when it is
        saved: they must be as it left them.
        """
        return _Part(self, name)

    def _restore_part(self, name: str) -> Tensors | None:
        if name not in self._tensors:
            return None
        with restoring():
            # cloned, as the run may go on in place before it keeps its own
            return {key: value.clone() for key, value in self._tensors[name]().items()}

    def _keep_part(self, name: str, tensors: Callable[[], Tensors]) -> None:
        self._tensors[name] = tensors
        self._keep_parts()

    def _keep_parts(self) -> None:
        self._keep(lambda: {"ended": [], "tensors": {n: t() for n, t in self._tensors.items()}})

    def heed(self) -> None:
        """Hear whether to stop where there is nothing new to keep: it will be done again.

        Raises:
            Suspended: the run is to go on later, from the state that was saved last.
        """
        if self._suspend():
            raise Suspended

    def aside(self) -> Checkpoints:
        """Return those of work that a resumed run does again: they keep nothing, only heed.

        Nothing at all is saved on the way, as such work may draw from a generator whose state is
        kept as it was before.
        """
        return Checkpoints(suspend=self._suspend)

    def _keep(self, written: Callable[[], dict[str, Any]]) -> None:
        suspend = self._suspend()
        pause_s = self._pause_s()
        if self._save is not None and (suspend or time.monotonic() - self._saved_at >= pause_s):
            began = time.monotonic()
            state = _bytes_of(written() | _origin(self._technique))
            beside_s = self._save(state) or 0.0
            self._size = len(state)
            self._saved_at = time.monotonic()
            self._costs_s.append(self._saved_at - began + beside_s)
        if suspend:
            raise Suspended

    def _pause_s(self) -> float:
        """Return how long to wait between two savings.

        The least of the last few tells what one costs: a machine that was busy for a moment must
        not silence a run for as long as that would be worth.
        """
        pause_s = min(self._costs_s, default=0.0) / self._most_cost
        if len(self._costs_s) < LATEST or self._size <= SMALL:
            pause_s = min(pause_s, LONGEST * self._every_s)
        return max(self._every_s, pause_s)

    def end(
        self,
        losses: Sequence[float],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None,
        *,
        settled: bool,
        leaves: bool = True,
    ) -> None:
        """Note that a stage is over and what it ended with: a resumed run passes it by.

        Where it `leaves` no parameters behind, those are not kept: nothing later needs them.
        """
        # a copy, as the next stage may go on with the same parameters
        parameters = _parameters(optimizer) if leaves else []
        ended = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
        self._ended.append(_common(losses, ended, generator) | {"settled": settled})

    def remember(self, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what an earlier run made under that name, or make it and keep it in the state.

        For what a run makes of a stage that is over, where that is smaller than its parameters.
        """
        return self.remember_all([name], lambda: {name: make()})[name]

    def remember_all(
        self, names: Sequence[str], make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Do so for several names, whose tensors are made together."""
        if not all(name in self._remembered for name in names):
            self._remembered |= {name: made.detach().cpu() for name, made in make().items()}
        return {name: self._remembered[name] for name in names}


class _Part(Checkpoints):
    """Those of a run within another."""

    def __init__(self, whole: Checkpoints, name: str) -> None:
        super().__init__(suspend=whole._suspend)
        self._whole, self._name = whole, name

    def heed(self) -> None:
        """Hear whether to stop; what the others have found is saved then.

        Raises:
            Suspended: the run is to go on later.
        """
        if self._suspend():
            self._whole._keep_parts()

    def part(self, name: str) -> Checkpoints:
        """Return those of a run within this one."""
        return self._whole.part(f"{self._name}/{name}")

    def _restore_part(self, name: str) -> Tensors | None:
        return self._whole._restore_part(self._name)

    def _keep_part(self, name: str, tensors: Callable[[], Tensors]) -> None:
        self._whole._keep_part(self._name, tensors)


def _origin(technique: str) -> dict[str, str]:
    """Say what a state is good for."""
    return {"version": lantern.__version__, "technique": technique}


def _written(
    losses: Sequence[float],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None,
) -> dict[str, Any]:
    parameters = [parameter.detach() for parameter in _parameters(optimizer)]
    return _common(losses, parameters, generator) | {"optimizer": optimizer.state_dict()}


def _bytes_of(state: Mapping[str, Any]) -> bytes:
    """Write a state, without checksums, which nobody reads and which take a third of the time."""
    out, usual = io.BytesIO(), torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(state), out)
    finally:
        torch.serialization.set_crc32_options(usual)
    return out.getvalue()


def _common(
    losses: Sequence[float], parameters: list[torch.Tensor], generator: torch.Generator | None
) -> dict[str, Any]:
    """Return what is kept of a stage whether it is over or not."""
    return {
        "losses": list(losses),
        "parameters": parameters,
        "generator": generator.get_state() if generator is not None else None,
    }


def _put_back(
    state: dict[str, Any],
    optimizer: torch.optim.Optimizer | None,
    generator: torch.Generator | None,
) -> None:
    if optimizer is not None:
        with torch.no_grad():
            for parameter, value in zip(_parameters(optimizer), state["parameters"], strict=True):
                parameter.copy_(value)
    if generator is not None:
        generator.set_state(state["generator"])


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _read(saved: bytes, technique: str) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    except (*MISFITS, *UNREADABLE) as error:
        raise DamagedCheckpoint("the state that was kept cannot be read") from error
    if not _is_state(state):
        raise DamagedCheckpoint("what was kept is not the state of a run")
    origin = _origin(technique)
    if any(state.get(name) != value for name, value in origin.items()):
        found = {name: state.get(name) for name in origin}
        raise DamagedCheckpoint(
            f"the state that was kept is of {found}, and this is {origin}; begin anew without it"
        )
    return state


def _is_state(state: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether what was read has the parts that every state has."""
    if not isinstance(state, dict) or not isinstance(state.get("remembered", {}), dict):
        return False
    ended = state.get("ended")
    return isinstance(ended, list) and all(isinstance(e, dict) and "parameters" in e for e in ended)
