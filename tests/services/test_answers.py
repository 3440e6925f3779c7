"""Answers given again: kept beside the calls, found at once, on a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from lantern.call import Answer
from services.blobs import Blobs
from services.clients import connect
from services.gateway.answers import MOST_WAITING, Answers
from services.settings import Settings
from tests.waiting import until

PAUSE_S = 1.0
GIVEN = Answer(b"pixels", "image/png", {"model": 3.0})
DOCUMENT = Answer(b'{"facts": {"class": 1}}', "application/json", {})


@pytest.fixture
def blobs(settings: Settings, client: redis.Redis) -> Iterator[Blobs]:
    own = connect(settings.blob_url, timeout_s=5.0)
    yield Blobs(own, settings.file_store_url, inline_bytes=1000, high=0.9)
    own.close()


@pytest.fixture
def answers(blobs: Blobs) -> Answers:
    return Answers(blobs, ttl_s=60)


def found_by_another(blobs: Blobs, name: str) -> Answer | None:
    return Answers(blobs, ttl_s=60).find(name)


@pytest.mark.parametrize("given", [GIVEN, DOCUMENT], ids=["picture", "document"])
def test_an_answer_is_found_at_once_and_soon_by_all(
    given: Answer, answers: Answers, blobs: Blobs
) -> None:
    answers.keep("a", given)
    at_once = answers.find("a")
    until(lambda: found_by_another(blobs, "a") is not None)
    for again in (at_once, answers.find("a"), found_by_another(blobs, "a")):
        assert again is not None
        assert again.media_type == given.media_type
        assert (b'"cached": true' in again.body) == (given is DOCUMENT)
    assert answers.find("b") is None


def test_no_call_waits_for_a_slow_store(
    answers: Answers, blobs: Blobs, client: redis.Redis
) -> None:
    client.client_pause(int(PAUSE_S * 1000), all=False)
    started = time.monotonic()
    for number in range(MOST_WAITING + 1):
        answers.keep(f"a{number}", GIVEN)
    assert all(answers.find(f"a{number}") for number in range(MOST_WAITING))
    assert time.monotonic() - started < PAUSE_S / 2
    until(lambda: found_by_another(blobs, f"a{MOST_WAITING - 1}") is not None)
    assert found_by_another(blobs, f"a{MOST_WAITING}") is None, "more than may wait"


def test_nothing_is_kept_for_no_time(blobs: Blobs) -> None:
    answers = Answers(blobs, ttl_s=0)
    answers.keep("a", GIVEN)
    assert answers.find("a") is None
