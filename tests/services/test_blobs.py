"""Bytes in Redis and in files, on a real Redis, a real disk and fsspec's memory."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
import redis
from fsspec.implementations.local import LocalFileOpener
from moto.server import ThreadedMotoServer

from services.blobs import BLOB, ORPHAN_AFTER_S, Blobs, FilesAway, StorageFull

INLINE = 1000
SMALL, LARGE = b"s" * INLINE, b"L" * (INLINE + 1)
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for word, text in (
            ("ENDPOINT_URL", f"http://{host}:{port}"), ("DEFAULT_REGION", "us-east-1"),
            ("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"),
        ):  # fmt: skip
            patch.setenv(f"AWS_{word}", text)
        files = fsspec.filesystem("s3")
        files.mkdir("lantern-files")
        yield "lantern-files"
        server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, root: Path) -> Iterator[str]:
    """A store on the disk, and two that are no folders."""
    if request.param == "file":
        yield f"file://{root}"
        return
    if request.param == "s3":
        yield f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
        return
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


MakeBlobs = Callable[..., Blobs]


@pytest.fixture
def make_blobs(client: redis.Redis) -> MakeBlobs:
    def make(url: str, high: float = 0.85) -> Blobs:
        return Blobs(client, url, inline_bytes=INLINE, high=high)

    return make


@pytest.fixture
def blobs(make_blobs: MakeBlobs, url: str) -> Blobs:
    """Blobs of both kinds of store."""
    return make_blobs(url)


@pytest.fixture
def disk(make_blobs: MakeBlobs, root: Path) -> Blobs:
    """Blobs on the disk."""
    return make_blobs(f"file://{root}")


def stored(url: str) -> list[str]:
    """Return the names of all files of a store."""
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).strip("/") for path in files.find(root))


def grow_old(root: Path, name: str = "*/*") -> None:
    """Let files have been written long ago."""
    long_ago = time.time() - ORPHAN_AFTER_S - 1
    for path in root.glob(name):
        os.utime(path, (long_ago, long_ago))


def race(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Run `act` in many threads at once; return what each got."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class TestPutAndRead:
    @pytest.mark.parametrize("data", [b"", b"\0", b"\1", b"\1\0x", SMALL])
    def test_small_bytes_are_kept_in_redis(
        self, blobs: Blobs, client: redis.Redis, url: str, data: bytes
    ) -> None:
        blobs.put("me", "a", data, ttl_s=60)
        assert blobs.read("me", "a") == data
        assert stored(url) == []
        assert client.strlen(BLOB + "me/a") == len(data) + 1
        assert 0 < client.ttl(BLOB + "me/a") <= 60

    @pytest.mark.parametrize("data", [LARGE, os.urandom(2_000_000)])
    def test_large_bytes_are_kept_in_a_file(
        self, blobs: Blobs, client: redis.Redis, url: str, data: bytes
    ) -> None:
        blobs.put("me", "a", data, ttl_s=60)
        assert blobs.read("me", "a") == data
        assert stored(url) == ["me/a"]
        assert client.strlen(BLOB + "me/a") == 1
        assert 0 < client.ttl(BLOB + "me/a") <= 60

    def test_a_file_holds_the_bytes_and_nothing_else(self, disk: Blobs, root: Path) -> None:
        disk.put("me", "a", LARGE, ttl_s=60)
        assert (root / "me" / "a").read_bytes() == LARGE

    @pytest.mark.parametrize("first", [SMALL, LARGE])
    @pytest.mark.parametrize("second", [SMALL[1:], LARGE[1:] + b"MM"])
    def test_what_comes_later_stands_in_its_place(
        self, blobs: Blobs, first: bytes, second: bytes
    ) -> None:
        blobs.put("me", "a", first, ttl_s=5)
        blobs.put("me", "a", second, ttl_s=60)
        assert blobs.read("me", "a") == second
        assert blobs.delete("me", "a")
        assert blobs.read("me", "a") is None

    def test_what_comes_later_has_its_own_time(self, blobs: Blobs, client: redis.Redis) -> None:
        blobs.put("me", "a", LARGE, ttl_s=5)
        blobs.put("me", "a", LARGE, ttl_s=60)
        assert client.ttl(BLOB + "me/a") > 50

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_owners_and_names_are_apart(self, blobs: Blobs, data: bytes) -> None:
        blobs.put("me", "a", data, ttl_s=60)
        assert blobs.read("you", "a") is None
        assert blobs.read("me", "b") is None
        blobs.put("you", "a", data + b"2", ttl_s=60)
        assert blobs.delete("you", "a")
        assert blobs.read("me", "a") == data

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_the_time_ends(self, blobs: Blobs, data: bytes) -> None:
        blobs.put("me", "a", data, ttl_s=1)
        time.sleep(1.1)
        assert blobs.read("me", "a") is None
        assert not blobs.delete("me", "a")

    def test_a_file_that_was_lost_is_none(self, blobs: Blobs, url: str) -> None:
        blobs.put("me", "a", LARGE, ttl_s=60)
        files, root = fsspec.core.url_to_fs(url)
        files.rm(root, recursive=True)
        assert blobs.read("me", "a") is None
        assert not blobs.copy("me", "a", "you", ttl_s=60)
        assert blobs.delete("me", "a")

    @pytest.mark.parametrize(
        "name", ["", "A", "a/b", "../b", "a b", "a~", "a\n", "ü", "a\0", 121 * "a"]
    )
    def test_names_that_are_not_allowed_are_a_mistake(
        self, disk: Blobs, client: redis.Redis, name: str
    ) -> None:
        with pytest.raises(AssertionError):
            disk.put("me", name, SMALL, ttl_s=60)
        with pytest.raises(AssertionError):
            disk.read("me", name)
        with pytest.raises(AssertionError):
            disk.delete("me", name)
        assert client.keys("*") == []

    @pytest.mark.parametrize("name", ["", "../b", "../../b", "A", "a\0"])
    def test_a_name_that_is_not_allowed_writes_no_file(
        self, disk: Blobs, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(AssertionError):
            disk.put("me", name, LARGE, ttl_s=60)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_the_same_name_may_be_written_by_many_at_once(self, disk: Blobs, root: Path) -> None:
        data = os.urandom(3_000_000)
        race(8, lambda _: disk.put("me", "a", data, ttl_s=60))
        assert disk.read("me", "a") == data
        assert stored(f"file://{root}") == ["me/a"]

    def test_what_is_read_is_whole_while_it_is_written(self, disk: Blobs) -> None:
        versions = [bytes([n]) * 2_000_000 for n in range(1, 7)]
        disk.put("me", "a", versions[0], ttl_s=60)
        over = threading.Event()
        seen = []

        def look() -> None:
            while not over.is_set():
                seen.append(disk.read("me", "a"))

        reader = threading.Thread(target=look)
        reader.start()
        for data in versions:
            disk.put("me", "a", data, ttl_s=60)
        over.set()
        reader.join()
        assert seen
        assert set(seen) <= set(versions)


class TestCopy:
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_another_owner_has_bytes_of_its_own(
        self, blobs: Blobs, client: redis.Redis, data: bytes
    ) -> None:
        blobs.put("me", "a", data, ttl_s=5)
        assert blobs.copy("me", "a", "you", ttl_s=60)
        assert 50 < client.ttl(BLOB + "you/a") <= 60
        blobs.delete("me", "a")
        assert blobs.read("you", "a") == data

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_the_copy_may_have_another_name(self, blobs: Blobs, data: bytes) -> None:
        blobs.put("me", "a", data, ttl_s=60)
        assert blobs.copy("me", "a", "you", ttl_s=60, as_name="b")
        assert blobs.read("you", "b") == data
        assert blobs.read("you", "a") is None
        assert blobs.read("me", "a") == data

    def test_nothing_cannot_be_copied(self, blobs: Blobs, client: redis.Redis) -> None:
        assert not blobs.copy("me", "a", "you", ttl_s=60)
        assert client.keys("*") == []


class TestExpire:
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    def test_the_time_of_some_is_set(self, blobs: Blobs, client: redis.Redis, data: bytes) -> None:
        for name in ("a", "b", "c"):
            blobs.put("me", name, data, ttl_s=600)
        blobs.expire("me", ["a", "b", "never-was"], 60)
        assert [client.ttl(BLOB + "me/" + name) <= 60 for name in ("a", "b", "c")] == [
            True, True, False,
        ]  # fmt: skip
        assert blobs.read("me", "a") == data
        assert client.dbsize() == 3

    def test_nothing_to_expire_is_no_trouble(self, blobs: Blobs) -> None:
        blobs.expire("me", [], 60)


class TestDelete:
    def test_many_go_at_once(self, blobs: Blobs, client: redis.Redis, url: str) -> None:
        for name, data in (("a", SMALL), ("b", LARGE), ("c", LARGE), ("d", SMALL)):
            blobs.put("me", name, data, ttl_s=60)
        assert blobs.delete("me", "a", "b", "never-was")
        assert [blobs.read("me", name) is None for name in "abcd"] == [True, True, False, False]
        assert stored(url) == ["me/c"]
        assert client.dbsize() == 2

    def test_nothing_cannot_be_deleted(self, blobs: Blobs) -> None:
        assert not blobs.delete("me")
        assert not blobs.delete("me", "a", "b")

    def test_a_large_one_that_became_small_leaves_a_file_to_sweep(
        self, disk: Blobs, root: Path
    ) -> None:
        disk.put("me", "a", LARGE, ttl_s=60)
        disk.put("me", "a", SMALL, ttl_s=60)
        grow_old(root)
        assert disk.sweep() == 1
        assert disk.read("me", "a") == SMALL
        assert stored(f"file://{root}") == []


class TestSweep:
    def test_only_old_orphans_are_removed(
        self, disk: Blobs, client: redis.Redis, root: Path
    ) -> None:
        for owner in ("old", "young"):
            for name in ("kept", "expired", "small"):
                disk.put(owner, name, LARGE, ttl_s=60)
            disk.put(owner, "small", SMALL, ttl_s=60)
            client.delete(f"{BLOB}{owner}/expired")
        grow_old(root, "old/*")
        assert disk.sweep() == 2
        assert disk.sweep() == 0
        left = ["old/kept", "young/expired", "young/kept", "young/small"]
        assert stored(f"file://{root}") == left
        for owner in ("old", "young"):
            assert disk.read(owner, "kept") == LARGE
            assert disk.read(owner, "small") == SMALL

    def test_old_files_that_were_written_by_half_are_removed(self, disk: Blobs, root: Path) -> None:
        disk.put("me", "kept", LARGE, ttl_s=60)
        for name in ("kept.99~", "lost.99~", "young.99~"):
            (root / "me" / name).write_bytes(b"half")
        grow_old(root, "me/[kl]*")
        assert disk.sweep() == 2
        assert stored(f"file://{root}") == ["me/kept", "me/young.99~"]
        assert disk.read("me", "kept") == LARGE

    @pytest.mark.parametrize("name", ["NOTES.txt", "me/Notes", "me/deep/er"])
    def test_files_of_somebody_else_stop_nothing(
        self, disk: Blobs, client: redis.Redis, root: Path, name: str
    ) -> None:
        disk.put("me", "z", LARGE, ttl_s=60)
        client.delete(BLOB + "me/z")
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"hello")
        grow_old(root, name)
        grow_old(root)
        disk.sweep()
        assert "me/z" not in stored(f"file://{root}")

    def test_an_empty_store_has_nothing_to_sweep(self, blobs: Blobs) -> None:
        assert blobs.sweep() == 0

    def test_a_store_without_a_folder_is_swept(
        self, make_blobs: MakeBlobs, client: redis.Redis
    ) -> None:
        url = f"memory://{uuid.uuid4().hex}"
        blobs = make_blobs(url)
        for name in ("kept", "expired"):
            blobs.put("me", name, LARGE, ttl_s=60)
        client.delete(BLOB + "me/expired")
        files, root = fsspec.core.url_to_fs(url)
        for path in files.find(root):
            for moment in ("created", "modified"):
                before = getattr(files.store[path], moment)
                setattr(files.store[path], moment, before - timedelta(seconds=ORPHAN_AFTER_S + 1))
        assert blobs.sweep() == 1
        assert stored(url) == ["me/kept"]

    def test_young_files_stay_in_every_kind_of_store(
        self, blobs: Blobs, client: redis.Redis, url: str
    ) -> None:
        blobs.put("me", "a", LARGE, ttl_s=60)
        client.delete(BLOB + "me/a")
        assert blobs.sweep() == 0
        assert stored(url) == ["me/a"]


class TestFull:
    @pytest.mark.parametrize("data", [b"x", SMALL, LARGE])
    def test_redis_without_memory_says_so_and_still_gives(
        self, blobs: Blobs, client: redis.Redis, data: bytes
    ) -> None:
        blobs.put("me", "small", SMALL, ttl_s=60)
        blobs.put("me", "large", LARGE, ttl_s=60)
        client.config_set("maxmemory", 1)
        with pytest.raises(StorageFull):
            blobs.put("me", "more", data, ttl_s=60)
        with pytest.raises(StorageFull):
            blobs.copy("me", "small", "you", ttl_s=60)
        assert blobs.read("me", "more") is None
        assert blobs.read("me", "small") == SMALL
        assert blobs.read("me", "large") == LARGE
        client.config_set("maxmemory", 0)
        blobs.put("me", "more", data, ttl_s=60)
        assert blobs.read("me", "more") == data

    def test_redis_without_memory_still_forgets(
        self, blobs: Blobs, client: redis.Redis, url: str
    ) -> None:
        blobs.put("me", "small", SMALL, ttl_s=60)
        blobs.put("me", "large", LARGE, ttl_s=60)
        client.config_set("maxmemory", 1)
        assert blobs.delete("me", "small", "large")
        assert (client.dbsize(), stored(url)) == (0, [])

    def test_redis_without_memory_still_shortens_times(
        self, blobs: Blobs, client: redis.Redis
    ) -> None:
        blobs.put("me", "small", SMALL, ttl_s=60)
        client.config_set("maxmemory", 1)
        blobs.expire("me", ["small"], 5)
        assert 0 < client.ttl(BLOB + "me/small") <= 5

    def test_redis_without_memory_is_swept(
        self, disk: Blobs, client: redis.Redis, root: Path
    ) -> None:
        disk.put("me", "a", LARGE, ttl_s=60)
        client.delete(BLOB + "me/a")
        grow_old(root)
        client.config_set("maxmemory", 1)
        assert disk.sweep() == 1

    def test_a_full_disk_says_so_and_still_gives(
        self, disk: Blobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk.put("me", "a", LARGE, ttl_s=60)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileOpener, "write", _write_half)
            for name in ("a", "b"):
                with pytest.raises(StorageFull):
                    disk.put("me", name, LARGE * 2, ttl_s=60)
            disk.put("me", "small", SMALL, ttl_s=60)
        assert disk.read("me", "a") == LARGE
        assert disk.read("me", "b") is None
        disk.put("me", "b", LARGE * 2, ttl_s=60)
        assert disk.read("me", "b") == LARGE * 2

    def test_a_full_disk_is_not_left_fuller(
        self, disk: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileOpener, "write", _write_half)
            with pytest.raises(StorageFull):
                disk.put("me", "a", LARGE, ttl_s=60)
        assert stored(f"file://{root}") == []

    def test_a_folder_that_cannot_be_written_is_not_full(self, disk: Blobs, root: Path) -> None:
        root.mkdir()
        (root / "me").write_bytes(b"in the way")
        with pytest.raises(FilesAway):
            disk.put("me", "a", LARGE, ttl_s=60)

    def test_a_store_that_cannot_be_reached_is_not_full(self, root: Path) -> None:
        with redis.Redis.from_url("redis://127.0.0.1:1/0") as nowhere:
            blobs = Blobs(nowhere, f"file://{root}", inline_bytes=INLINE, high=0.85)
            with pytest.raises(redis.ConnectionError):
                blobs.put("me", "a", SMALL, ttl_s=60)


def _write_half(opener: LocalFileOpener, data: bytes) -> None:
    opener.f.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestRoom:
    def test_the_share_of_redis_memory_is_told(
        self, make_blobs: MakeBlobs, client: redis.Redis, url: str
    ) -> None:
        assert make_blobs(url).used() == 0  # without a limit nothing is full
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", 4 * used)
        assert make_blobs(url).used() == pytest.approx(0.25, abs=0.05)
        client.config_set("maxmemory", used // 2)
        assert make_blobs(url).used() > 1.5

    def test_new_work_is_refused_when_it_is_nearly_full(
        self, make_blobs: MakeBlobs, client: redis.Redis, url: str
    ) -> None:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", 2 * used)
        make_blobs(url, high=0.85).require_room()
        with pytest.raises(StorageFull):
            make_blobs(url, high=0.3).require_room()

    def test_it_is_looked_up_once_a_second(
        self, make_blobs: MakeBlobs, client: redis.Redis, url: str
    ) -> None:
        blobs = make_blobs(url)
        assert blobs.used() == 0
        client.config_set("maxmemory", 1)
        assert blobs.used() == 0
        time.sleep(1.05)
        assert blobs.used() > 1

    def test_a_disk_with_hardly_any_room_is_full(
        self, make_blobs: MakeBlobs, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_at: list[str] = []

        def usage(free: int) -> Callable[[str], Disk]:
            def look(path: str) -> Disk:
                looked_at.append(path)
                return Disk(1000, 1000 - free, free)

            return look

        monkeypatch.setattr(shutil, "disk_usage", usage(free=50))
        make_blobs(f"file://{root}").require_room()
        monkeypatch.setattr(shutil, "disk_usage", usage(free=49))
        with pytest.raises(StorageFull):
            make_blobs(f"file://{root}").require_room()
        assert {Path(path) for path in looked_at} == {root}
        make_blobs("memory://elsewhere").require_room()  # has nothing to do with the disk
