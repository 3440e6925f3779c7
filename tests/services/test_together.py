"""Calls at the same time are one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.together import Together


class Key:
    """Equal to all of its kind; lets the work end once so many threads have looked it up."""

    def __init__(self, askers: int) -> None:
        self.left, self.all_there = askers, threading.Event()

    def __hash__(self) -> int:  # under the lock of `Together`
        self.left -= 1
        if self.left <= 0:
            self.all_there.set()
        return 0


def asked_by_all(
    together: Together[object], work: Callable[[], object], askers: int
) -> list[object]:
    """Ask in several threads, of which the first works until all have asked."""
    key, began = Key(askers + 1), threading.Event()  # the first looks twice

    def slow() -> object:
        began.set()
        assert key.all_there.wait(10)
        return work()

    def ask() -> object:
        try:
            return together.ask(key, slow)
        except ConnectionError as error:
            return error

    with ThreadPoolExecutor(askers) as pool:
        first = pool.submit(ask)
        assert began.wait(10)
        others = [pool.submit(ask) for _ in range(askers - 1)]
        return [asked.result(10) for asked in (first, *others)]


def test_those_who_ask_meanwhile_share_what_is_found() -> None:
    together, calls = Together[object](), []

    def work() -> object:
        calls.append("work")
        assert together.ask("another key", object) is not None
        return object()

    found = asked_by_all(together, work, 9)
    assert len({id(one) for one in found}) == 1
    assert calls == ["work"]


def test_who_asks_later_gets_anew() -> None:
    together = Together[object]()
    assert together.ask("a", object) is not together.ask("a", object)


def test_a_failure_is_everybodys_and_the_next_call_works() -> None:
    together = Together[object]()

    def fail() -> object:
        raise ConnectionError("away")

    found = asked_by_all(together, fail, 3)
    assert all(isinstance(one, ConnectionError) for one in found)
    with pytest.raises(ConnectionError):
        together.ask("a", fail)
    assert together.ask("a", lambda: 1) == 1
