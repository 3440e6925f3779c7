"""Calls side by side: at a network, pictures of one size become a batch."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from lantern.styles.engine import Engine, Hands, engine_for
from lantern.styles.network import StyleNetwork

# Pixels of all pictures of a batch together.
MOST_PIXELS = 2**22
T = TypeVar("T")


@dataclass(frozen=True)
class _Pass:
    """A picture `[1,3,H,W]` on its way through a network, and what will be painted of it."""

    engine: Engine
    pixels: Tensor
    hand: Tensor | None
    painted: Future[Tensor] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[object, ...]:
        """What it has in common with those it can go with."""
        return id(self.engine), self.pixels.shape, self.hand is None


class Batches:
    """Runs calls side by side, for networks that take many small pictures as quickly as one.

    A call that comes to a network waits there until each of the others has come to one too, or has
    ended; what goes to the same network and is of one size then passes in one batch, each in its
    own hand. Within `turn` one call runs at a time, so that nothing there meets another's hooks.
    """

    def __init__(self, make: Callable[[StyleNetwork, Hands], Engine] = engine_for) -> None:
        self._make = make
        self._turn = threading.Condition()
        self._running = 0
        self._waiting: list[_Pass] = []

    def engine(self, network: StyleNetwork, hands: Hands = "own") -> Engine:
        """Make an engine whose passes are gathered."""
        made = self._make(network, hands)
        return dataclasses.replace(made, run=functools.partial(self._pass, made))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run while no other call does, but for those that wait at a network."""
        with self._turn:
            yield

    def each(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run calls side by side; return what each returns, in their order."""
        if len(calls) < 2:
            return [call() for call in calls]
        with ThreadPoolExecutor(len(calls)) as threads:
            with self._turn:
                self._running += len(calls)
            return list(threads.map(self._run, calls))

    def _run(self, call: Callable[[], T]) -> T:
        try:
            return call()
        finally:
            with self._turn:
                self._running -= 1
                self._go_on()

    def _pass(self, engine: Engine, pixels: Tensor, hand: Tensor | None) -> Tensor:
        with self._turn:
            if self._running < 2:
                return engine.forward(pixels, hand)
            mine = _Pass(engine, pixels, hand)
            self._waiting.append(mine)
            self._go_on()
            self._turn.wait_for(mine.painted.done)
        return mine.painted.result()

    def _go_on(self) -> None:
        """Let all pass that wait, unless there are others to come."""
        if len(self._waiting) < self._running:
            return
        kinds: dict[tuple[object, ...], list[_Pass]] = {}
        for one in self._waiting:
            kinds.setdefault(one.kind, []).append(one)
        self._waiting.clear()
        for alike in kinds.values():
            most = max(1, MOST_PIXELS // alike[0].pixels[0, 0].numel())
            for first in range(0, len(alike), most):
                _paint(alike[first : first + most])
        self._turn.notify_all()


def _paint(batch: Sequence[_Pass]) -> None:
    hands = [one.hand for one in batch if one.hand is not None]
    try:
        painted = batch[0].engine.forward(
            torch.cat([one.pixels for one in batch]), torch.cat(hands) if hands else None
        )
    except Exception as error:  # each call tells its own caller
        for one in batch:
            one.painted.set_exception(error)
        return
    for at, one in enumerate(batch):
        one.painted.set_result(painted[at : at + 1])
