"""The signs of life of a running job."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from services.blobs import FilesAway, StorageFull
from services.job_bytes import preview_name, preview_step
from services.jobs import Claim, Word
from services.record import JobOptions, failure
from services.worker.desk import Desk
from services.worker.keeper import Keeper

if TYPE_CHECKING:
    from lantern.progress import Step

UNREACHABLE_S = 60.0
# What ends a run at its next step.
STOPS: tuple[Word, ...] = ("cancel", "late", "lost")
STATE, PREVIEW = "state", "preview"
# A long run makes its previews more rarely, so that they stay a film one can watch.
MOST_PREVIEWS = 300
# Cores that are shared with much else do so many giga-operations a second at least. A step may be
# so many times as large as others of its run, as those at the end of a pyramid are.
SLOWEST_GIGAFLOP, LARGEST_STEP = 3.0, 4.0


class Mark(NamedTuple):
    """When a step was done, and how far the run was then."""

    at: float
    done: int
    fraction: float


@dataclass
class Pulse:
    """Beats for a job while it runs, in a thread of its own; the steps leave their news here.

    States and previews are stored in another thread: the run waits for no store. The last beat
    said whether to go on. A step stops the computation when the job was cancelled, is late or has
    been taken over; `is_suspended` stops it behind its next checkpoint, `heedful_step` stops a run
    that keeps none. `go_on` is called for as long as the run may. A run of `gigaflop` that neither
    makes a step nor looks whether to stop is given up after a long while.
    """

    desk: Desk
    claim: Claim
    options: JobOptions
    go_on: Callable[[], None] = lambda: None
    gigaflop: float = 0.0
    word: Word = "ok"
    _step: Step | None = None
    _began: float = field(default_factory=time.monotonic)
    _heard_at: float = field(default_factory=time.monotonic)
    _steps: int = 1
    _previewed_at: float = float("-inf")
    _previews: list[int] = field(default_factory=list)
    _states: list[str] = field(default_factory=list)
    _told: str = ""
    _first: Mark | None = None
    _even_since: Mark | None = None
    _latest: Mark | None = None
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        ttl_s = self.desk.settings.live_ttl_s
        self._keeper = Keeper(self.desk.stores.blobs, self.claim.job_id, ttl_s, self._note_kept)

    def __enter__(self) -> Pulse:
        self._keeper.start()
        self._thread = threading.Thread(target=self._beat_until_end, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rest()

    def worked(self) -> tuple[float, float]:
        """Return the seconds from the first step to the last, and the share of the work in them."""
        if self._first is None or self._latest is None:
            return 0.0, 0.0
        return self._latest.at - self._first.at, self._latest.fraction - self._first.fraction

    def is_suspended(self) -> bool:
        """Tell whether the job is to be put down for later."""
        self._heard_at = time.monotonic()
        return self.word in ("pause", "release")

    def step(self, step: Step) -> None:
        """Take note of a step; make a preview now and then.

        One that was told before only says that the run goes on: there is nothing new to show.

        Raises:
            Cancelled: the job is not to go on.
        """
        from lantern.progress import Cancelled

        if self.word in STOPS:
            raise Cancelled
        now = self._heard_at = time.monotonic()
        self._steps = max(1, step.total)
        is_new = self._latest is None or (step.done, step.fraction) != self._latest[1:]
        self._latest = Mark(now, step.done, step.fraction)
        self._first = self._first or self._latest
        self._even_since = (self._even_since or self._latest) if step.is_even else None
        if not is_new:
            return
        self._step = step
        pause_s = max(self.options.preview_every_s, (now - self._began) / MOST_PREVIEWS)
        if now - self._previewed_at >= pause_s:
            self._previewed_at = now
            self._keep_preview(step)

    def heedful_step(self, step: Step) -> None:
        """Take note of a step of a run that keeps no state: it is put down as it is.

        Raises:
            Cancelled: the job is not to go on.
            Suspended: the job is to begin again later.
        """
        self.heed()
        self.step(step)

    def heed(self) -> None:
        """Hear whether to stop, where nothing is kept any more.

        Raises:
            Cancelled: the job is not to go on.
            Suspended: the job is to go on later, from the state that was kept last.
        """
        from lantern.progress import Cancelled, Suspended

        self._heard_at = time.monotonic()
        if self.word in STOPS:
            raise Cancelled
        if self.is_suspended():
            raise Suspended

    def keep(self, state: bytes) -> float:
        """Have the state of the run stored, for another worker to go on from.

        Return the seconds of a core that storing the one before took.
        """
        name = f"state-{self.claim.fence}-{time.monotonic_ns()}"
        return self._keeper.offer(STATE, name, state)

    def flush(self) -> None:
        """Store and record the last step and state, which no beat may have seen.

        Raises:
            RedisError, FilesAway: a store is away.
        """
        self._rest()
        with contextlib.suppress(StorageFull):  # the state before still serves
            self._keeper.flush()
        self._tell()
        with contextlib.suppress(StorageFull):
            self._keeper.flush()

    def end(self) -> None:
        """Record the last step; store nothing more, as the job needs no state from now on.

        Raises:
            RedisError: a store is away.
        """
        self._rest()
        self._keeper.withdraw(STATE)
        with contextlib.suppress(StorageFull, FilesAway):  # previews can be done without
            self._keeper.flush()
        self._tell()

    def store_no_more(self) -> None:
        """Leave the stores as they are."""
        self._keeper.rest()
        self._keeper.withdraw(STATE, PREVIEW)

    def inherit(self, checkpoint: str) -> None:
        """Take over the state an earlier worker kept: the next one replaces it."""
        self._states, self._told = [checkpoint], checkpoint

    def _rest(self) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join(timeout=5)
        self._keeper.rest()

    def _beat_until_end(self) -> None:
        silent_since = time.monotonic()
        while not self._end.wait(self.desk.settings.beat_s):
            try:
                self.word = self._give_up() if self._is_stuck() else self._beat()
                silent_since = time.monotonic()
            except redis.RedisError:
                # Redis may be restarting: go on, the fence keeps a late result out
                if time.monotonic() - silent_since > UNREACHABLE_S:
                    self.word = "lost"
            if self.word in STOPS:
                return
            self.go_on()

    def _is_stuck(self) -> bool:
        """Tell whether the run has not been heard of for longer than any step takes."""
        longest_s = self.desk.settings.longest_step_s
        largest = self.gigaflop * min(1.0, LARGEST_STEP / self._steps)
        silent_s = time.monotonic() - self._heard_at
        return longest_s > 0 and silent_s > longest_s + largest / SLOWEST_GIGAFLOP

    def _give_up(self) -> Word:
        """End the job of a run that is stuck; its process goes the way of all that hang."""
        detail = "it made no step for so long that it was given up; send the call again"
        self.desk.stores.jobs.finish(
            self.claim, "failed", error=failure("stuck", detail, retryable=True)
        )
        return "lost"

    def _tell(self) -> None:
        """Record all that is left to tell."""
        self._beat()
        while self._previews:
            self._beat()

    def _beat(self) -> Word:
        step, preview = self._step, next(iter(self._previews), None)
        newest = self._states[-1] if self._states else ""
        word = self.desk.stores.jobs.beat(
            self.claim,
            progress=self._progress(step) if step else None,
            preview=preview,
            checkpoint=newest if newest != self._told else "",
        )
        # only now, as a beat that does not arrive is made up for by the next
        if self._step is step:
            self._step = None
        if self._previews[:1] == [preview]:
            del self._previews[0]
        if word != "lost":
            self._told = newest
            self._delete_before(newest)
        return word

    def _delete_before(self, newest: str) -> None:
        """Delete the states that the one on record replaces."""
        count = self._states.index(newest) if newest else 0
        self._keeper.discard(self._states[:count])
        del self._states[:count]

    def _keep_preview(self, step: Step) -> None:
        picture = step.preview().fit(self.options.preview_size).encode("image/jpeg", 80)
        self._keeper.offer(PREVIEW, preview_name(step.done, self.claim.fence), picture)

    def _note_kept(self, purpose: str, name: str) -> None:
        if purpose == STATE:
            self._states.append(name)
        else:
            self._previews.append(preview_step(name))

    def _progress(self, step: Step) -> dict[str, Any]:
        # the first step brings the loading of the network along and would spoil the estimate, as
        # would those of another kind
        now = time.monotonic()
        first = self._even_since or Mark(now, step.done, step.fraction)
        per_step = (now - first.at) / max(1, step.done - first.done)
        left = per_step * (step.total - step.done) if step.done > first.done else None
        return {
            "done": step.done,
            "total": step.total,
            "fraction": round(step.fraction, 4),
            "loss": round(step.loss, 6),
            "eta_s": None if left is None else round(left, 1),
        }
