"""Collections of callers, on a real Redis and real files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from lantern.collections.digest import digest_of
from services import clients
from services.blobs import BLOB, Blobs, StorageFull
from services.clients import Stores
from services.collection_record import (
    COLLECTION_ID,
    COLLECTION_NAME,
    CollectionRecord,
    Manifest,
    Picture,
)
from services.collection_store import (
    COLLECTION,
    COLLECTIONS,
    SLACK_S,
    UPLOAD_S,
    CollectionBusy,
    CollectionFull,
    CollectionGone,
    CollectionLimits,
    CollectionStore,
    NameTaken,
    TooManyCollections,
)
from services.collection_upload import Upload, Uploaded
from services.settings import Settings

LIMITS = CollectionLimits(ttl_s=1000, max_collections=3, max_pictures=5, max_bytes=10_000)
MakeStore = Callable[..., CollectionStore]


@pytest.fixture
def make_store(client: redis.Redis, blobs: Blobs) -> MakeStore:
    def make(**changes: Any) -> CollectionStore:
        return CollectionStore(client, blobs, dataclasses.replace(LIMITS, **changes))

    return make


@pytest.fixture
def store(make_store: MakeStore) -> CollectionStore:
    return make_store()


@pytest.fixture
def mine(store: CollectionStore) -> CollectionRecord:
    return store.create("me", "cats")


def upload(store: CollectionStore, record: CollectionRecord, files: dict[str, bytes]) -> Uploaded:
    with Upload(store, record.id) as under_way:
        for name, data in files.items():
            under_way.put(name, data, media_type="image/png", width=2, height=1)
        return under_way.commit()


def found(store: CollectionStore, name: str = "cats", owner: str = "me") -> CollectionRecord:
    record = store.find(owner, name)
    assert record is not None
    return record


def contents(store: CollectionStore, name: str = "cats") -> dict[str, bytes | None]:
    """Return the bytes of every picture, by name."""
    record = found(store, name)
    return {one.name: store.read(record.id, one) for one in store.manifest(record).pictures}


def stored(settings: Settings) -> list[Path]:
    return [path for path in (settings.run_path / "files").rglob("*") if path.is_file()]


class TestMaking:
    def test_a_collection_is_found_by_name_and_id(self, store: CollectionStore) -> None:
        before = time.time()
        record = store.create("me", "cats")
        assert COLLECTION_ID.fullmatch(record.id)
        assert (record.owner, record.name, record.count, record.size) == ("me", "cats", 0, 0)
        assert record.digest == digest_of(())
        assert before - 1 < record.created_at < time.time() + 1
        assert abs(record.expires_at - record.created_at - LIMITS.ttl_s) < 1
        assert found(store) == found(store, record.id) == record
        assert store.manifest(record).pictures == ()

    def test_a_name_is_an_owners_own(self, store: CollectionStore, mine: CollectionRecord) -> None:
        with pytest.raises(NameTaken):
            store.create("me", "cats")
        other = store.create("you", "cats")
        assert other.id != mine.id
        assert found(store, owner="you") == other
        assert [one.id for one in store.every("me")] == [mine.id]

    def test_others_do_not_see_it(self, store: CollectionStore, mine: CollectionRecord) -> None:
        assert store.find("you", "cats") is None
        assert store.find("you", mine.id) is None
        assert store.every("you") == []

    def test_an_owner_may_have_so_many(self, store: CollectionStore) -> None:
        for name in "cab":
            store.create("me", name)
        assert [one.name for one in store.every("me")] == ["a", "b", "c"]
        with pytest.raises(TooManyCollections):
            store.create("me", "d")
        store.create("you", "d")
        store.delete(found(store, "a"))
        store.create("me", "d")

    def test_a_name_is_free_again_after_its_time(
        self, store: CollectionStore, client: redis.Redis
    ) -> None:
        records = [store.create("me", name) for name in "abc"]
        client.delete(COLLECTION + records[0].id, COLLECTION + records[1].id)
        assert [one.name for one in store.every("me")] == ["c"]
        again = store.create("me", "a")
        assert again.id != records[0].id
        store.create("me", "d")  # b, which has expired, does not count

    @pytest.mark.parametrize("name", ["a", "A.b-c_d", "9" * 64])
    def test_what_is_a_name(self, name: str) -> None:
        assert COLLECTION_NAME.fullmatch(name)

    @pytest.mark.parametrize("name", ["", "/tmp", "..", ".a", "-a", "a b", "a/b", "ä", "9" * 65])
    def test_what_is_none(self, name: str) -> None:
        assert not COLLECTION_NAME.fullmatch(name)


class TestUploading:
    def test_pictures_come_back_under_their_names(
        self, store: CollectionStore, mine: CollectionRecord
    ) -> None:
        files = {"b/x.png": os.urandom(300), "a.png": b"", "Ü.png": b"same", "z.png": b"same"}
        came = upload(store, mine, files)
        assert (came.added, came.replaced, came.unchanged) == (4, 0, 0)
        assert came.record == found(store)
        assert (came.record.count, came.record.size) == (4, 308)
        assert contents(store) == files
        manifest = store.manifest(came.record)
        assert [one.name for one in manifest.pictures] == sorted(files)
        assert (manifest.id, manifest.name) == (mine.id, "cats")
        shas = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        assert {one.name: one.sha256 for one in manifest.pictures} == shas
        assert came.record.digest == manifest.digest == digest_of(shas.items())

    def test_the_digest_does_not_depend_on_the_way(self, store: CollectionStore) -> None:
        one, two = store.create("me", "one"), store.create("me", "two")
        upload(store, one, {"a": b"1", "b": b"2"})
        upload(store, two, {"b": b"0"})
        upload(store, two, {"b": b"2", "c": b"3"})
        upload(store, two, {"a": b"1"})
        assert found(store, "two").digest != found(store, "one").digest
        store.remove(found(store, "two"), "c")
        assert found(store, "two").digest == found(store, "one").digest

    def test_the_same_name_is_replaced_and_the_same_picture_left(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        upload(store, mine, {"a": b"1", "b": b"2"})
        came = upload(store, mine, {"a": b"1", "b": b"new", "c": b"3"})
        assert (came.added, came.replaced, came.unchanged) == (1, 1, 1)
        assert contents(store) == {"a": b"1", "b": b"new", "c": b"3"}
        assert len(stored(settings)) == 3 + 1  # pictures and manifest, nothing of before

    def test_sending_it_again_changes_nothing(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        files = {"a": b"1", "b": b"2"}
        first = upload(store, mine, files)
        again = upload(store, mine, files)
        assert (again.added, again.replaced, again.unchanged) == (0, 0, 2)
        assert again.record.digest == first.record.digest
        assert contents(store) == files
        assert len(stored(settings)) == 2 + 1

    def test_small_pictures_do_not_fill_redis(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        upload(store, mine, {"a": os.urandom(5000)})
        sizes = [client.strlen(key) for key in client.keys(f"{BLOB}{mine.id}/*")]
        assert sizes == [1, 1]

    @pytest.mark.parametrize(
        "files", [{str(n): b"x" for n in range(6)}, {"a": bytes(6000), "b": bytes(4001)}]
    )
    def test_too_many_or_too_large_pictures_bring_none(
        self,
        store: CollectionStore,
        mine: CollectionRecord,
        settings: Settings,
        files: dict[str, bytes],
    ) -> None:
        with pytest.raises(CollectionFull, match="5 of 10000 bytes"):
            upload(store, mine, files)
        assert contents(store) == {}
        assert stored(settings) == []

    def test_what_is_there_counts(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        upload(store, mine, {"a": bytes(6000)})
        with pytest.raises(CollectionFull):
            upload(store, mine, {"b": bytes(4001)})
        assert (list(contents(store)), len(stored(settings))) == (["a"], 2)
        upload(store, mine, {"b": bytes(4000)})
        upload(store, mine, {"a": bytes(10)})
        upload(store, mine, {"c": b"", "d": b"", "e": b""})
        with pytest.raises(CollectionFull):
            upload(store, mine, {"f": b""})
        assert list(contents(store)) == ["a", "b", "c", "d", "e"]

    def test_an_upload_that_breaks_off_leaves_nothing(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        upload(store, mine, {"a": b"1"})
        with Upload(store, mine.id) as under_way:
            under_way.put("a", b"2", media_type="image/png", width=2, height=1)
            assert len(stored(settings)) == 3
        assert contents(store) == {"a": b"1"}
        assert len(stored(settings)) == 2

    def test_an_upload_whose_process_dies_is_gone_after_an_hour(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        under_way = Upload(store, mine.id)
        under_way.put("a", b"2", media_type="image/png", width=2, height=1)
        (key,) = cast(list[bytes], client.keys(f"{BLOB}{mine.id}/*"))
        assert 0 < client.ttl(key) <= UPLOAD_S

    def test_an_upload_to_what_was_deleted_leaves_nothing(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        with Upload(store, mine.id) as under_way:
            under_way.put("a", b"2", media_type="image/png", width=2, height=1)
            store.delete(mine)
            with pytest.raises(CollectionGone):
                under_way.commit()
        assert stored(settings) == []

    def test_a_full_store_says_so_and_keeps_what_there_was(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        upload(store, mine, {"a": b"1"})
        client.config_set("maxmemory", 1)
        with pytest.raises(StorageFull):
            upload(store, mine, {"b": b"2"})
        client.config_set("maxmemory", 0)
        assert contents(store) == {"a": b"1"}

    def test_uploads_at_the_same_time_all_arrive(
        self, make_store: MakeStore, settings: Settings
    ) -> None:
        store = make_store(max_pictures=100)
        record = store.create("me", "cats")

        def send(number: int) -> None:
            upload(store, record, {f"{number}-{n}": bytes([number, n]) for n in range(4)})

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(16)))
        assert contents(store) == {f"{i}-{n}": bytes([i, n]) for i in range(16) for n in range(4)}
        assert (found(store).count, found(store).size) == (64, 128)
        assert len(stored(settings)) == 65

    def test_who_is_always_too_late_is_told_so(
        self, store: CollectionStore, mine: CollectionRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.collection_store.MOST_TRIES", 3)
        rivals = iter("xyz")

        def edit(pictures: dict[str, Picture]) -> None:
            store.change(mine.id, lambda others: None)
            pictures[next(rivals)] = Picture("x", "0", "image/png", 1, 1, 1, "x")

        with pytest.raises(CollectionBusy):
            store.change(mine.id, edit)


class TestRemoving:
    def test_a_picture_is_gone_with_its_bytes(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        record = upload(store, mine, {"a": b"1", "b": b"22"}).record
        assert store.remove(record, "a")
        assert not store.remove(record, "a")
        assert contents(store) == {"b": b"22"}
        assert (found(store).count, found(store).size) == (1, 2)
        assert len(stored(settings)) == 2

    def test_a_collection_is_gone_with_all_it_had(
        self,
        store: CollectionStore,
        mine: CollectionRecord,
        settings: Settings,
        client: redis.Redis,
    ) -> None:
        record = upload(store, mine, {"a": b"1", "b": b"22"}).record
        assert store.delete(record)
        assert not store.delete(record)
        assert store.find("me", "cats") is None
        assert store.every("me") == []
        assert stored(settings) == []
        assert client.dbsize() == 0
        with pytest.raises(CollectionGone):
            store.remove(record, "a")

    def test_a_record_from_before_still_deletes_what_came_after(
        self, store: CollectionStore, mine: CollectionRecord, settings: Settings
    ) -> None:
        upload(store, mine, {"a": b"1"})
        assert store.delete(mine)
        assert stored(settings) == []

    def test_a_full_store_still_deletes(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        record = upload(store, mine, {"a": b"1"}).record
        client.config_set("maxmemory", 1)
        assert store.delete(record)
        assert store.find("me", "cats") is None

    def test_whose_bytes_are_lost_can_be_deleted(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        record = upload(store, mine, {"a": b"1"}).record
        for key in client.keys(f"{BLOB}{mine.id}/*"):
            client.delete(key)
        with pytest.raises(CollectionGone):
            store.manifest(record)
        assert store.delete(record)

    def test_who_reads_while_another_changes_sees_before_or_after(
        self, store: CollectionStore, mine: CollectionRecord
    ) -> None:
        record = upload(store, mine, {"a": b"1"}).record
        store.remove(record, "a")
        manifest = store.manifest(record)  # the record is old, the manifest it names is gone
        assert (manifest.pictures, manifest.digest) == ((), digest_of(()))


class TestTime:
    def ttls(self, client: redis.Redis, record: CollectionRecord) -> dict[str, int]:
        keys = cast(list[bytes], client.keys(f"{BLOB}{record.id}/*"))
        named = [COLLECTION + record.id, COLLECTIONS + "me", *(key.decode() for key in keys)]
        return {name: client.ttl(name) for name in named}

    def test_all_of_it_ends_and_the_bytes_last(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        upload(store, mine, {"a": b"1", "b": b"2"})
        upload(store, mine, {"c": b"1"})
        for name, seconds in self.ttls(client, mine).items():
            slack = SLACK_S if name.startswith(BLOB) else 0
            assert LIMITS.ttl_s + slack - 5 < seconds <= LIMITS.ttl_s + slack, name

    def age(self, client: redis.Redis, record: CollectionRecord, seconds: int) -> None:
        """Let a collection have been used a while ago."""
        for name, left in self.ttls(client, record).items():
            client.expire(name, left - seconds)
        expires_ms = int(record.expires_at * 1000) - seconds * 1000
        client.hset(COLLECTION + record.id, "expires_ms", expires_ms)

    def test_a_use_prolongs_all_of_it(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        record = upload(store, mine, {"a": b"1"}).record
        self.age(client, record, 900)
        store.renew(store.manifest(record))
        for name, seconds in self.ttls(client, record).items():
            assert seconds > LIMITS.ttl_s - 5, name
        assert found(store).expires_at >= record.expires_at

    def test_a_use_soon_after_another_costs_nothing(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        record = upload(store, mine, {"a": b"1"}).record
        self.age(client, record, 100)
        before = self.ttls(client, record)
        store.renew(store.manifest(record))
        after = self.ttls(client, record)
        assert all(after[name] <= before[name] for name in before)

    def test_the_use_of_what_is_gone_is_no_harm(
        self, store: CollectionStore, mine: CollectionRecord, client: redis.Redis
    ) -> None:
        manifest = store.manifest(mine)
        store.delete(mine)
        store.renew(manifest)
        assert client.dbsize() == 0

    def test_after_its_time_nothing_is_left(
        self, make_store: MakeStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.collection_store.SLACK_S", 0)
        store = make_store(ttl_s=1)
        record = upload(store, store.create("me", "cats"), {"a": b"1"}).record
        time.sleep(1.2)
        assert store.find("me", "cats") is None
        assert store.find("me", record.id) is None
        assert store.every("me") == []
        assert client.dbsize() == 0

    def test_files_of_what_has_expired_are_swept(
        self,
        store: CollectionStore,
        mine: CollectionRecord,
        settings: Settings,
        client: redis.Redis,
        blobs: Blobs,
    ) -> None:
        other = store.create("me", "dogs")
        upload(store, mine, {"a": b"1"})
        upload(store, other, {"b": b"1"})
        for key in client.keys(f"{BLOB}{mine.id}/*"):
            client.delete(key)
        for path in stored(settings):
            os.utime(path, (0, 0))
        assert blobs.sweep() == 2
        assert contents(store, "dogs") == {"b": b"1"}


def test_a_manifest_survives_packing() -> None:
    picture = Picture("Größe/a.png", "0" * 64, "image/png", 3, 2, 9, "blob-0")
    manifest = Manifest("col_x", "cats", "digest", (picture,))
    assert Manifest.unpack(manifest.pack()) == manifest


@pytest.fixture
def two_stores(
    stores: Stores, settings: Settings, redis_url: str
) -> Iterator[tuple[Stores, redis.Redis]]:
    """Stores whose bytes lie in another database than their records."""
    url = redis_url.rpartition("/")[0] + "/1"
    made = clients.stores(dataclasses.replace(settings, blob_redis_url=url))
    yield made, redis.Redis.from_url(url)
    made.close()


def test_records_and_bytes_may_lie_in_two_redis(two_stores: tuple[Stores, redis.Redis]) -> None:
    made, bytes_redis = two_stores
    store = made.collections
    upload(store, store.create("me", "cats"), {"a": b"1"})
    assert contents(store) == {"a": b"1"}
    assert len(cast(list[bytes], bytes_redis.keys("*"))) == 2
    assert len(cast(list[bytes], made.state.keys("*"))) == 2
    store.delete(found(store))
    assert bytes_redis.dbsize() == made.state.dbsize() == 0
    bytes_redis.close()
