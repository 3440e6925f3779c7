"""Uploads by caller and content, on a real Redis and real files."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
import redis

from services.blobs import BLOB, Blobs, StorageFull
from services.files import Files
from services.kept import Kept, TooMuchKept
from services.settings import Settings


def key(owner: str, name: str) -> str:
    return f"{BLOB}uploads-{owner}/{name}"


def put(files: Files, data: bytes, owner: str = "me") -> str:
    return files.put(owner, data, "image/png", width=2, height=1).id


@pytest.fixture
def kept(client: redis.Redis) -> Kept:
    return Kept(client, most=10_000_000, ttl_s=60)


@pytest.fixture
def files(blobs: Blobs, kept: Kept) -> Files:
    return Files(blobs, kept, ttl_s=60)


@pytest.mark.parametrize("size", [0, 300_000, 1_500_000])
def test_bytes_come_back_under_the_name_of_their_content(files: Files, size: int) -> None:
    data = os.urandom(size)
    before = time.time()
    file = files.put("me", data, "image/png", width=640, height=480)
    assert file.id == "file_" + hashlib.sha256(data).hexdigest()
    assert (file.media_type, file.size) == ("image/png", size)
    assert (file.width, file.height) == (640, 480)
    assert before + 59 < file.expires_at < time.time() + 61
    assert files.read("me", file.id) == data
    assert files.facts("me", file.id) == file


def test_the_same_bytes_are_stored_once(files: Files, client: redis.Redis) -> None:
    first, again, other = put(files, b"same"), put(files, b"same"), put(files, b"other")
    assert first == again != other
    assert len(client.keys(BLOB + "*")) == 4  # bytes and facts of two


def test_the_same_large_bytes_are_one_file(files: Files, settings: Settings) -> None:
    data = os.urandom(1_500_000)
    put(files, data)
    put(files, data)
    found = [path for path in (settings.run_path / "files").rglob("*") if path.is_file()]
    assert len(found) == 1


def test_callers_do_not_share(files: Files) -> None:
    mine = put(files, b"data", "me")
    assert files.read("you", mine) is None
    assert files.facts("you", mine) is None
    assert not files.delete("you", mine)
    assert put(files, b"data", "you") == mine
    assert files.delete("you", mine)
    assert files.read("me", mine) == b"data"


def test_storing_again_renews_the_time(files: Files, client: redis.Redis) -> None:
    name = put(files, b"data")
    for part in (name, name + ".facts"):
        assert 0 < client.ttl(key("me", part)) <= 60
        client.expire(key("me", part), 5)
    before = files.facts("me", name)
    time.sleep(0.01)
    put(files, b"data")
    for part in (name, name + ".facts"):
        assert client.ttl(key("me", part)) > 50
    after = files.facts("me", name)
    assert before is not None
    assert after is not None
    assert after.expires_at > before.expires_at


@pytest.mark.parametrize("size", [4, 1_500_000])
def test_a_file_is_gone_after_its_time(blobs: Blobs, kept: Kept, size: int) -> None:
    files = Files(blobs, kept, ttl_s=1)
    name = put(files, os.urandom(size))
    time.sleep(1.1)
    assert files.read("me", name) is None
    assert files.facts("me", name) is None
    assert not files.delete("me", name)


@pytest.mark.parametrize("size", [4, 1_500_000])
def test_a_deleted_file_is_gone(
    files: Files, client: redis.Redis, settings: Settings, size: int
) -> None:
    name = put(files, os.urandom(size))
    assert files.delete("me", name)
    assert not files.delete("me", name)
    assert files.read("me", name) is None
    assert files.facts("me", name) is None
    assert client.dbsize() == 0
    assert not [path for path in (settings.run_path / "files").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        "", "file_", "file_" + 64 * "0", "file_" + 64 * "A", "file_" + 63 * "0" + "\n",
        "file_" + 64 * "0" + ".facts", "../x", "a\x00b", "ü" * 300,
    ],
)  # fmt: skip
def test_what_is_not_there_is_none(files: Files, name: str) -> None:
    put(files, b"data")
    assert files.read("me", name) is None
    assert files.facts("me", name) is None
    assert not files.delete("me", name)


def test_a_full_store_says_so_and_still_gives(files: Files, client: redis.Redis) -> None:
    name = put(files, b"data")
    client.config_set("maxmemory", 1)
    for size in (4, 1_500_000):
        with pytest.raises(StorageFull):
            put(files, os.urandom(size))
    assert files.read("me", name) == b"data"
    client.config_set("maxmemory", 0)
    put(files, b"more")


def test_what_a_caller_has_is_counted_until_it_is_deleted(files: Files, kept: Kept) -> None:
    first, second = put(files, b"12345"), put(files, b"123")
    put(files, b"12345")
    assert (kept.bytes_of("me"), kept.bytes_of("you")) == (8, 0)
    files.delete("me", first)
    assert kept.bytes_of("me") == 3
    files.delete("me", second)
    assert kept.bytes_of("me") == 0


def test_a_caller_who_has_too_much_may_send_no_more(files: Files, client: redis.Redis) -> None:
    name = put(files, bytes(9_999_999))
    before = len(client.keys("*"))
    with pytest.raises(TooMuchKept, match="9999999 bytes of results and uploads, of 10000000"):
        put(files, b"12")
    assert len(client.keys("*")) == before
    put(files, b"12", "you")
    files.delete("me", name)
    put(files, b"12")


def test_what_could_not_be_stored_does_not_count(
    files: Files, kept: Kept, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StorageFull

    monkeypatch.setattr(Blobs, "put", refuse)
    with pytest.raises(StorageFull):
        put(files, b"data")
    assert kept.bytes_of("me") == 0


def test_a_full_store_still_deletes(files: Files, client: redis.Redis) -> None:
    name = put(files, b"data")
    client.config_set("maxmemory", 1)
    assert files.delete("me", name)
    assert files.read("me", name) is None
