"""What was asked of the stack, and all that was seen of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.record import FINAL


@dataclass
class Entry:
    """One job; `seen` holds each change of its status with the time a caller learned of it."""

    kind: str
    wish: str = ""
    has_webhook: bool = False
    asked_at: float = field(default_factory=time.time)
    id: str = ""
    seen: list[tuple[float, str]] = field(default_factory=list)
    done_events: set[str] = field(default_factory=set)
    unordered_events: int = 0
    error: str = ""
    digest: str = ""
    """SHA-256 of the result, or why there is none."""

    def saw(self, status: str) -> None:
        """Note a status, if it is another than before."""
        if not self.seen or self.seen[-1][1] != status:
            self.seen.append((time.time(), status))

    @property
    def status(self) -> str:
        """The status seen last."""
        return self.seen[-1][1] if self.seen else ""

    @property
    def is_over(self) -> bool:
        """Whether a final status was seen."""
        return any(status in FINAL for _, status in self.seen)

    @property
    def final_at(self) -> float:
        """When a final status was first seen; now, where none was."""
        return next((at for at, status in self.seen if status in FINAL), time.time())


@dataclass(frozen=True)
class Call:
    """One interactive call: what went wrong at first, and after the one retry; "" for nothing."""

    technique: str
    began: float
    ended: float
    first_error: str
    last_error: str


@dataclass(frozen=True)
class Victim:
    """A job that was running when its worker was taken away."""

    job_id: str
    attempts: int


@dataclass
class Blow:
    """One fault: what it hit, and how the stack took it. Times are seconds since 1970."""

    fault: str
    at: float
    kills: int = 0
    victims: list[Victim] = field(default_factory=list)
    detail: str = ""
    stops_gateway: bool = False
    ended: float = 0.0
    ready_at: float = 0.0
    missed: str = ""
    """What had not come back when patience ended."""

    def touches(self, began: float, ended: float) -> bool:
        """Tell whether a time overlaps with this fault and its aftermath."""
        return began <= self.ready_at and ended >= self.at


class Ledger:
    """Everything that was seen, by any thread."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.calls: list[Call] = []
        self.blows: list[Blow] = []
        self.notes: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        self.references: dict[str, str] = {}
        self.crashes: list[str] = []
        self._lock = threading.Lock()

    def open(self, entry: Entry) -> Entry:
        """Enter a job before it is asked for."""
        with self._lock:
            self.entries.append(entry)
        return entry

    def live(self) -> int:
        """Count the jobs that were not seen to be over."""
        with self._lock:
            return sum(not entry.is_over for entry in self.entries)

    def note(self, what: str) -> None:
        """Count something."""
        with self._lock:
            self.notes[what] += 1

    def delivered(self, job_id: str) -> None:
        """Count a message that a webhook got."""
        with self._lock:
            self.deliveries[job_id] += 1

    @contextmanager
    def crash_noted(self, who: str) -> Iterator[None]:
        """Let no thread of the test die unseen."""
        try:
            yield
        except Exception as error:
            with self._lock:
                self.crashes.append(f"{who}: {error!r}")
