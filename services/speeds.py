"""How fast the workers are: what turns the operations of a job into seconds."""

from __future__ import annotations

from typing import cast

import redis

SPEEDS = "lantern:speeds"
# Share of the newest run in the running mean.
SHARE = 0.3
KEPT_S = 30 * 24 * 3600


class Speeds:
    """Giga-operations a second of finished runs, by engine and network: a running mean.

    An engine is a technique's method, or all of it: one may copy pixels where another convolves.
    Workers of different machines share it. A lost update is made up for by the next run.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def note(self, engine: str, model: str, *, gigaflop: float, seconds: float) -> None:
        """Take note of the work between the first step of a run and the last it took."""
        if gigaflop <= 0 or seconds <= 0:
            return
        known, found = self._of(engine, model), gigaflop / seconds
        mean = found if known is None else known + SHARE * (found - known)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(SPEEDS, f"{engine} {model}", f"{mean:.4g}")
        pipe.expire(SPEEDS, KEPT_S)
        pipe.execute()

    def seconds(self, engine: str, model: str, *, gigaflop: float) -> float | None:
        """Say how long that much work is likely to take; None where no run is known."""
        speed = self._of(engine, model)
        return None if speed is None else round(gigaflop / speed, 1)

    def _of(self, engine: str, model: str) -> float | None:
        kept = cast("bytes | None", self._redis.hget(SPEEDS, f"{engine} {model}"))
        return float(kept) if kept else None
