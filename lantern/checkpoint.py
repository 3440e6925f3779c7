"""Keeping the state of a long run, so that another process can go on with it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Resumed:
    """Where a stage of a run goes on: the losses it had, and whether it was over already."""

    losses: tuple[float, ...] = ()
    settled: bool = False
    over: bool = False


class Checkpoints:
    """Saves the state of a run now and then, and restores the one it was made with.

    A run has one or more stages, numbered from 0, each one optimisation. The state is what the next
    step depends on: parameters, optimiser, generator, losses; `save` receives it as bytes that
    `torch.load(weights_only=True)` reads. A resumed run ends in the same bytes as an unbroken one.
    """

    def __init__(
        self,
        save: Callable[[bytes], None] | None = None,
        saved: bytes | None = None,
        *,
        every_s: float = 5.0,
    ) -> None:
        self._save, self._every_s = save, every_s
        self._state: dict[str, Any] | None = _read(saved) if saved else None
        self._ended: list[dict[str, Any]] = list(self._state["ended"]) if self._state else []
        self._saved_at = time.monotonic()

    def restore(
        self, stage: int, optimizer: torch.optim.Optimizer, generator: torch.Generator | None
    ) -> Resumed:
        """Put a stage's parameters, optimiser and generator back as they were saved."""
        if stage < len(self._ended):
            return Resumed(**self._ended[stage], over=True)
        state, self._state = self._state, None
        if state is None:
            return Resumed()
        with torch.no_grad():
            for parameter, value in zip(_parameters(optimizer), state["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        if generator is not None:
            generator.set_state(state["generator"])
        return Resumed(losses=tuple(state["losses"]))

    def keep(
        self,
        losses: Sequence[float],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator | None,
    ) -> None:
        """Save the state behind a step, if the last time was long enough ago."""
        if self._save is None or time.monotonic() - self._saved_at < self._every_s:
            return
        out = io.BytesIO()
        torch.save(
            {
                "ended": self._ended,
                "losses": list(losses),
                "parameters": [parameter.detach() for parameter in _parameters(optimizer)],
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state() if generator is not None else None,
            },
            out,
        )
        self._save(out.getvalue())
        self._saved_at = time.monotonic()

    def end(self, losses: Sequence[float], *, settled: bool) -> None:
        """Note that a stage is over: a resumed run passes it by."""
        self._ended.append({"losses": tuple(losses), "settled": settled})


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _read(saved: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
    return state
