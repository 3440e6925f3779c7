"""The signs of life of a running job."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from services.files import StorageFull
from services.jobs import Claim, Word
from services.worker.desk import Desk

if TYPE_CHECKING:
    from lantern.progress import Step

PREVIEW_SIDE = 320
UNREACHABLE_S = 60.0
LARGEST_STATE = 64 * 1024 * 1024


@dataclass
class Pulse:
    """Beats for a job while it runs, in a thread of its own; the steps leave their news here.

    A step stops the computation when the last beat said so: the job was cancelled, or another
    worker has it.
    """

    desk: Desk
    claim: Claim
    word: Word = "ok"
    _step: Step | None = None
    _previewed_at: float = 0.0
    _preview: tuple[int, str] | None = None
    _checkpoint: str = ""
    _kept: str = ""
    _first: tuple[float, int] | None = None
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another worker has taken the job over."""
        return self.word == "lost"

    def __enter__(self) -> Pulse:
        self._thread = threading.Thread(target=self._beat_until_end, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join(timeout=5)

    def step(self, step: Step) -> None:
        """Take note of a step; make a preview now and then.

        Raises:
            Cancelled: the job is not to go on.
        """
        from lantern.progress import Cancelled

        if self.word != "ok":
            raise Cancelled
        now = time.monotonic()
        if now - self._previewed_at >= self.desk.settings.preview_every_s:
            self._previewed_at = now
            picture = step.preview().fit(PREVIEW_SIDE).encode("image/jpeg", 80)
            with contextlib.suppress(redis.RedisError, StorageFull):  # previews can be done without
                self._preview = (step.done, self.desk.files.put(picture, "image/jpeg").id)
        self._step = step

    def keep(self, state: bytes) -> None:
        """Store the state of the run, for another worker to go on from."""
        if len(state) > LARGEST_STATE:
            return
        with contextlib.suppress(redis.RedisError, StorageFull):  # the one before still serves
            self._checkpoint = self.desk.files.put(state, "application/octet-stream").id

    def flush(self) -> None:
        """Record the last step, which no beat may have seen."""
        self._end.set()
        assert self._thread is not None
        self._thread.join(timeout=5)
        self._beat()

    def _beat_until_end(self) -> None:
        silent_since = time.monotonic()
        while not self._end.wait(self.desk.settings.beat_s):
            try:
                self.word = self._beat()
                silent_since = time.monotonic()
            except redis.RedisError:
                # Redis may be restarting: go on, the fence keeps a late result out
                if time.monotonic() - silent_since > UNREACHABLE_S:
                    self.word = "lost"
            if self.word != "ok":
                return

    def _beat(self) -> Word:
        step, self._step = self._step, None
        preview, self._preview = self._preview, None
        checkpoint, self._checkpoint = self._checkpoint, ""
        word = self.desk.jobs.beat(
            self.claim,
            progress=self._progress(step) if step else None,
            preview=preview,
            checkpoint=checkpoint,
        )
        if checkpoint and word != "lost":  # else the one before belongs to another worker now
            self._delete(self._kept)
            self._kept = checkpoint
        return word

    def inherit(self, checkpoint: str) -> None:
        """Take over the state an earlier worker kept: the next one replaces it."""
        self._kept = checkpoint

    def forget(self) -> None:
        """Delete the states that were kept: the job is over."""
        with contextlib.suppress(redis.RedisError):  # they expire by themselves, only later
            for name in (self._checkpoint, self._kept):
                self._delete(name)

    def _delete(self, name: str) -> None:
        if name:
            self.desk.files.delete(name)

    def _progress(self, step: Step) -> dict[str, Any]:
        self._first = self._first or (time.monotonic(), step.done)
        began, already = self._first
        # the first step brings the loading of the network along and would spoil the estimate
        per_step = (time.monotonic() - began) / max(1, step.done - already)
        left = per_step * (step.total - step.done) if step.done > already else None
        return {
            "done": step.done,
            "total": step.total,
            "fraction": round(step.fraction, 4),
            "loss": round(step.loss, 6),
            "eta_s": None if left is None else round(left, 1),
        }
