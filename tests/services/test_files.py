"""Files by content, on a real Redis."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
import redis

from services.files import PREFIX, Files, StorageFull


def test_bytes_come_back_under_the_name_of_their_content(files: Files) -> None:
    data = os.urandom(300_000)
    before = time.time()
    file = files.put(data, "image/png", width=640, height=480)
    assert file.id == "file_" + hashlib.sha256(data).hexdigest()
    assert (file.media_type, file.size) == ("image/png", 300_000)
    assert (file.width, file.height) == (640, 480)
    assert before + 59 < file.expires_at < time.time() + 61
    assert files.read(file.id) == data
    assert files.facts(file.id) == file


def test_the_same_bytes_are_stored_once(files: Files, client: redis.Redis) -> None:
    first, again = files.put(b"same", "image/png"), files.put(b"same", "image/png")
    other = files.put(b"other", "image/png")
    assert first.id == again.id != other.id
    assert client.dbsize() == 4


def test_storing_again_renews_the_time(files: Files, client: redis.Redis) -> None:
    file = files.put(b"data", "image/png")
    for key in (PREFIX + file.id, PREFIX + file.id + ":facts"):
        assert 0 < client.ttl(key) <= 60
        client.expire(key, 5)
    files.put(b"data", "image/png")
    assert client.ttl(PREFIX + file.id) > 50
    assert client.ttl(PREFIX + file.id + ":facts") > 50


def test_a_file_is_gone_after_its_time(client: redis.Redis) -> None:
    files = Files(client, ttl_s=1)
    file = files.put(b"data", "image/png")
    time.sleep(1.1)
    assert files.read(file.id) is None
    assert files.facts(file.id) is None


def test_a_deleted_file_is_gone(files: Files, client: redis.Redis) -> None:
    file = files.put(b"data", "image/png")
    assert files.delete(file.id)
    assert not files.delete(file.id)
    assert files.read(file.id) is None
    assert files.facts(file.id) is None
    assert client.dbsize() == 0


@pytest.mark.parametrize("name", ["", "file_", "file_" + 64 * "0", "../x", "a\x00b", "ü" * 300])
def test_what_is_not_there_is_none(files: Files, name: str) -> None:
    assert files.read(name) is None
    assert files.facts(name) is None
    assert not files.delete(name)


def test_empty_bytes_are_bytes(files: Files) -> None:
    file = files.put(b"", "application/json")
    assert files.read(file.id) == b""


def test_a_full_store_says_so_and_still_gives(files: Files, client: redis.Redis) -> None:
    file = files.put(b"data", "image/png")
    client.config_set("maxmemory", 1)
    with pytest.raises(StorageFull):
        files.put(b"more", "image/png")
    assert files.read(file.id) == b"data"
    assert files.delete(file.id)
    client.config_set("maxmemory", 0)
    files.put(b"more", "image/png")
