"""What keeps states and previews: the newest counts, and no store makes a run wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from services.blobs import Blobs, StorageFull
from services.clients import connect
from services.settings import Settings
from services.worker import keeper
from services.worker.keeper import Keeper
from tests.waiting import until

PAUSE_S = 2.4


@pytest.fixture
def told() -> list[str]:
    """The names that were stored, as the keeper tells them."""
    return []


@pytest.fixture
def blobs(settings: Settings, client: redis.Redis) -> Iterator[Blobs]:
    """A store that takes only a moment to find out that Redis does not answer."""
    own = connect(settings.blob_url, timeout_s=0.3, patient=False)
    made = Blobs(own, settings.file_store_url, inline_bytes=1000, high=0.9)
    yield made
    made.close()


@pytest.fixture
def resting(blobs: Blobs, told: list[str]) -> Keeper:
    """A keeper that was not started."""
    return Keeper(blobs, "job_1", 60, lambda purpose, name: told.append(f"{purpose}:{name}"))


@pytest.fixture
def working(resting: Keeper, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    monkeypatch.setattr(keeper, "RETRY_S", 0.05)
    resting.start()
    yield resting
    resting.rest()


def silence(client: redis.Redis) -> None:
    """Let Redis answer nobody for a while."""
    client.client_pause(int(PAUSE_S * 1000))


@pytest.mark.parametrize("size", [10, 5000])
def test_what_is_offered_is_stored(
    working: Keeper, blobs: Blobs, told: list[str], size: int
) -> None:
    working.offer("state", "state-1", bytes(size))
    until(lambda: told == ["state:state-1"])
    assert blobs.read("job_1", "state-1") == bytes(size)
    # what the first has cost is what the next will, as far as is known
    assert 0 < working.offer("state", "state-2", b"x") < 1
    assert working.offer("preview", "preview-1", b"x") == 0


def test_offering_does_not_wait_for_a_store_that_is_away(
    working: Keeper, client: redis.Redis, blobs: Blobs, told: list[str]
) -> None:
    silence(client)
    began = time.monotonic()
    for number in range(5):
        working.offer("state", f"state-{number}", b"%d" % number)
        working.offer("preview", f"preview-{number}", b"%d" % number)
        time.sleep(0.05)
    assert time.monotonic() - began < PAUSE_S / 2
    # then the newest of each, and none that it has replaced after it
    until(lambda: {"state:state-4", "preview:preview-4"} <= set(told))
    time.sleep(0.2)
    assert [name for name in told if name.startswith("state")][-1] == "state:state-4"
    assert blobs.read("job_1", "state-4") == b"4"
    assert len(told) < 10


def test_what_is_unwanted_is_deleted_once_the_store_is_back(
    working: Keeper, client: redis.Redis, blobs: Blobs
) -> None:
    for name in ("state-1", "state-2"):
        blobs.put("job_1", name, b"x", ttl_s=60)
    silence(client)
    working.discard(["state-1"])
    time.sleep(0.1)
    working.discard(["state-2"])
    until(lambda: not working.unwanted)
    assert blobs.read("job_1", "state-1") is blobs.read("job_1", "state-2") is None


def test_a_full_store_takes_what_there_is_room_for_and_the_rest_later(
    resting: Keeper, blobs: Blobs, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = blobs.put

    def refuse_states(owner: str, name: str, data: bytes, *, ttl_s: int) -> None:
        if name.startswith("state"):
            raise StorageFull
        put(owner, name, data, ttl_s=ttl_s)

    resting.offer("state", "state-1", b"x")
    resting.offer("preview", "preview-1", b"y")
    with monkeypatch.context() as full:
        full.setattr(blobs, "put", refuse_states)
        with pytest.raises(StorageFull):
            resting.flush()
    assert told == ["preview:preview-1"]
    resting.flush()
    assert told == ["preview:preview-1", "state:state-1"]


def test_what_could_not_be_stored_still_waits(
    resting: Keeper, client: redis.Redis, told: list[str]
) -> None:
    resting.offer("state", "state-1", b"x")
    silence(client)
    with pytest.raises(redis.RedisError):
        resting.flush()
    assert told == []
    time.sleep(PAUSE_S)
    resting.flush()
    assert told == ["state:state-1"]


def test_what_is_withdrawn_is_not_stored(resting: Keeper, told: list[str]) -> None:
    resting.offer("state", "state-1", b"x")
    resting.offer("preview", "preview-1", b"y")
    resting.withdraw("state")
    resting.flush()
    assert told == ["preview:preview-1"]


def test_at_rest_nothing_is_stored_and_its_thread_is_gone(working: Keeper, told: list[str]) -> None:
    threads = threading.active_count()
    working.rest()
    working.offer("state", "state-1", b"x")
    time.sleep(0.1)
    assert told == []
    assert threading.active_count() == threads - 1
