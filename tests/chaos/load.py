"""The load: jobs of every kind, some of them meddled with, and interactive calls beside them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import urllib3

from tests.chaos import client
from tests.chaos.kinds import Kind, call_kinds, job_kinds
from tests.chaos.ledger import Call, Entry, Ledger
from tests.e2e.running import Response, Running
from tests.waiting import until

ALIVE, CALLERS = 4, 2
CALLS_PAUSE_S = (0.3, 0.9)
REFERENCE_WITHIN_S = 240.0
UNREACHABLE = (urllib3.exceptions.HTTPError, OSError)


class Load:
    """Threads that use the stack as callers do, and enter all they see into the ledger."""

    def __init__(self, stack: Running, ledger: Ledger, *, seed: int, hook: str) -> None:
        self.stack, self.ledger, self._seed, self._hook = stack, ledger, seed, hook
        self._kinds, self._calls = job_kinds(), call_kinds()
        self._over, self._given_up = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []

    def take_references(self) -> None:
        """Run each kind once, undisturbed, and keep what its result is."""
        entries = [self._submit(kind, f"reference-{kind.name}") for kind in self._kinds]
        for kind, entry in zip(self._kinds, entries, strict=True):
            assert entry is not None
            until(lambda entry=entry: bool(entry.digest), REFERENCE_WITHIN_S)  # type: ignore[misc]
            assert entry.status == "succeeded", entry
            self.ledger.references[kind.name] = entry.digest

    def start(self) -> None:
        """Begin to submit and to call."""
        self._spawn("submitter", self._submit_until_over)
        for number in range(CALLERS):
            self._spawn(f"caller {number}", functools.partial(self._call_until_over, number))

    def drain(self, within_s: float) -> float:
        """Ask for nothing more; wait until every job is over; return the seconds it took."""
        self._over.set()
        began = time.monotonic()
        while self.ledger.live() and time.monotonic() < began + within_s:
            time.sleep(0.1)
        took = time.monotonic() - began
        if self.ledger.live():
            self._given_up.set()
        for thread in self._threads:
            thread.join(client.PATIENCE_S)
        return took

    # --- Jobs

    def _submit_until_over(self) -> None:
        chance = random.Random(f"jobs {self._seed}")
        for number in itertools.count():
            while self.ledger.live() >= ALIVE and not self._over.is_set():
                time.sleep(0.1)
            if self._over.is_set():
                return
            kind = chance.choices(self._kinds, [kind.weight for kind in self._kinds])[0]
            options: dict[str, Any] = {}
            if kind.weight == 1 and chance.random() < 0.5:
                options["priority"] = "high"  # short ones only: they pass those that were hit
            if chance.random() < 0.4:
                options["webhook_url"] = self._hook
            wish = chance.choices(["", "pause", "cancel"], [7, 2, 1])[0]
            # some have no key: of those whose answer was lost, nobody knows
            key = f"job-{self._seed}-{number}" if chance.random() < 0.8 else ""
            self._submit(kind, key, wish, **options)

    def _submit(self, kind: Kind, key: str, wish: str = "", **options: Any) -> Entry | None:
        """Submit until it is accepted: a key makes sure that it becomes one job only."""
        entry = Entry(kind.name, wish, "webhook_url" in options)
        headers = {"prefer": "respond-async"} | ({"idempotency_key": key} if key else {})
        response = client.persistently(lambda: client.post(self.stack, kind, headers, **options))
        if response is None or response.status != 202:
            self.ledger.note(f"submissions refused: {response.status if response else 'silence'}")
            return None
        if response.headers.get("Idempotent-Replayed"):
            self.ledger.note("submissions whose first answer was lost")
        return self._adopt(entry, client.document(response))

    def _adopt(self, entry: Entry, job: Any) -> Entry:
        entry.id = job["id"]
        entry.saw(job["status"])
        self.ledger.open(entry)
        by_events = hash(entry.id) % 2 == 0
        self._spawn(f"follower of {entry.id}", lambda: self._follow(entry, job, by_events))
        if entry.wish:
            self._spawn(f"meddler with {entry.id}", lambda: self._meddle(entry, job))
        return entry

    def _follow(self, entry: Entry, job: Any, by_events: bool) -> None:
        """Watch a job to its end, over its event stream or by asking, then read its result."""
        after = ""
        while not entry.is_over and not self._given_up.is_set():
            if by_events:
                after = self._watch(entry, job, after)
            self._look(entry, job)
            time.sleep(0.4)
        if entry.status == "succeeded":
            self._read_result(entry, job)

    def _watch(self, entry: Entry, job: Any, after: str) -> str:
        """Follow the stream until it breaks or ends; return the position behind what was read."""
        began = after
        try:
            for position, name, data in self.stack.events(job, after):
                if after and _moment(position) <= _moment(after):
                    entry.unordered_events += 1
                after = position
                if name in ("status", "done"):
                    entry.saw(data["status"])
                if name == "done":
                    entry.done_events.add(position)
        except (*UNREACHABLE, AssertionError):
            if after != began:
                self.ledger.note("event streams broken off")
        return after

    def _look(self, entry: Entry, job: Any) -> None:
        response, wrong = client.ask(lambda: self.stack.get(job["links"]["self"]))
        if response is None or wrong:
            return
        if response.status != 200:
            entry.saw(f"unknown ({response.status})")
            return
        now = client.document(response)
        entry.saw(now["status"])
        entry.error = now["error"]["type"].rpartition("/")[2] if now["error"] else ""

    def _read_result(self, entry: Entry, job: Any) -> None:
        response = client.persistently(lambda: self.stack.get(job["links"]["result"]))
        if response is not None and response.status == 200:
            entry.digest = hashlib.sha256(response.data).hexdigest()
        else:
            entry.digest = f"unreadable: {response.status if response else 'no answer'}"

    def _meddle(self, entry: Entry, job: Any) -> None:
        """Cancel a job, or pause it and let it go on."""
        time.sleep(random.Random(entry.id).uniform(1, 6))
        client.persistently(lambda: self.stack.request("POST", job["links"][entry.wish]))
        if entry.wish != "pause":
            return
        time.sleep(3)
        resume = job["links"]["resume"]
        client.persistently(lambda: self.stack.request("POST", resume))
        while not entry.is_over and not self._given_up.is_set():
            time.sleep(1)
            if entry.status == "paused":
                client.persistently(lambda: self.stack.request("POST", resume))

    # --- Interactive calls

    def _call_until_over(self, caller: int) -> None:
        chance = random.Random(f"calls {self._seed} {caller}")
        for number in itertools.count():
            if self._over.is_set():
                return
            self._call(chance.choice(self._calls), f"call-{self._seed}-{caller}-{number}")
            time.sleep(chance.uniform(*CALLS_PAUSE_S))

    def _call(self, kind: Kind, key: str) -> None:
        entry, last_error = Entry(kind.name), ""

        def send() -> Response:
            return client.post(self.stack, kind, {"idempotency_key": key})

        response, first_error = client.ask(send)
        if first_error:
            client.pause_before_retry(response)
            response, last_error = client.ask(send)
        if response is not None and not last_error and response.status not in (200, 202):
            last_error = str(response.status)
        call = Call(kind.technique, entry.asked_at, time.time(), first_error, last_error)
        self.ledger.calls.append(call)
        if response is not None and response.status == 202:
            self.ledger.note("interactive calls that became jobs")
            self._adopt(entry, client.document(response))

    def _spawn(self, name: str, action: Callable[[], None]) -> None:
        def guarded() -> None:
            with self.ledger.crash_noted(name):
                action()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def _moment(position: str) -> tuple[int, ...]:
    return tuple(int(part) for part in position.split("-"))
