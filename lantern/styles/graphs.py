"""Passes over small pictures on a GPU: recorded once for each shape, and played again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

# Shapes of which a recorded pass is kept, and pixels of a batch up to which it pays: the operations
# on larger ones take longer than their launching.
MOST_SHAPES, MOST_PIXELS = 16, 2**20
log = logging.getLogger("lantern")

Paint = Callable[[Tensor, Tensor | None], Tensor]
Record = Callable[[Paint, Tensor, Tensor | None], Paint]


class Recorded:
    """Paints as `paint` does, pixels `[N,3,H,W]` in hands `[N,D]`, by what `record` made of it.

    What is played holds for the next call of its shape alone, so that the picture is copied to the
    CPU at once, as float32.
    """

    def __init__(self, paint: Paint, record: Record) -> None:
        self._paint, self._record = paint, record
        self._players: dict[tuple[int, ...], Paint] = {}  # the last used last
        self._lock = threading.Lock()

    def __call__(self, pixels: Tensor, hand: Tensor | None) -> Tensor:
        """Paint a batch, by its recording where it is small."""
        with self._lock:
            painted = self._player(pixels, hand)(pixels, hand)
            return painted.to("cpu", torch.float32, copy=True)

    def _player(self, pixels: Tensor, hand: Tensor | None) -> Paint:
        if pixels[:, 0].numel() > MOST_PIXELS:
            return self._paint
        shape = (*pixels.shape, 0 if hand is None else 1)
        player = self._players.pop(shape, None) or self._recorded(pixels, hand)
        while len(self._players) >= MOST_SHAPES:
            self._players.pop(next(iter(self._players)))
        self._players[shape] = player
        return player

    def _recorded(self, pixels: Tensor, hand: Tensor | None) -> Paint:
        try:
            return self._record(self._paint, pixels, hand)
        except RuntimeError as error:  # as CUDA's errors are
            log.warning("a pass over %s cannot be recorded: %s", tuple(pixels.shape), error)
            return self._paint


def cuda_graphs() -> Record:
    """Return what records passes as CUDA graphs, whose memory is shared."""
    pool = torch.cuda.graph_pool_handle()

    def record(paint: Paint, pixels: Tensor, hand: Tensor | None) -> Paint:
        still, own = pixels.clone(), None if hand is None else hand.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # in which kernels are chosen and their memory is taken
                paint(still, own)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            painted = paint(still, own)

        def play(pixels: Tensor, hand: Tensor | None) -> Tensor:
            still.copy_(pixels)
            if own is not None and hand is not None:
                own.copy_(hand)
            graph.replay()
            return painted

        return play

    return record
