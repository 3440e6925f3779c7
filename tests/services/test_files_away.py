"""A file store that fails for a while, or for good: what waits for it, and what is told."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from flask.testing import FlaskClient
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lantern.call import Studio
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services import clients
from services.blobs import Blobs, FilesAway
from services.clients import Stores
from services.record import Job
from services.settings import Settings
from services.worker import keeper, patience, tasks
from services.worker.desk import Desk
from services.worker.keeper import Keeper
from services.worker.tasks import work
from tests.services.gateway import PHOTO, encode, problem, queue, start
from tests.services.worker.deeds import ENDLESS
from tests.waiting import until

LARGE = bytes(5000)
SHORT = {"steps": 3, "octaves": 1, "size": 64}


class Disk:
    """Lets operations on files fail: so many times, or with -1 until it is mended."""

    def __init__(self) -> None:
        self.failures = 0

    def check(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()

    def failing(operation: Any) -> Any:
        def attempt(*given: Any, **more: Any) -> Any:
            made.check()
            return operation(*given, **more)

        return attempt

    monkeypatch.setattr(LocalFileOpener, "write", failing(LocalFileOpener.write))
    for name in ("cat_file", "rm_file"):
        monkeypatch.setattr(LocalFileSystem, name, failing(getattr(LocalFileSystem, name)))
    return made


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings under which nearly everything is a file."""
    return dataclasses.replace(settings, inline_bytes=100)


@pytest.fixture
def desk(stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    monkeypatch.setattr(patience, "ROOM_WITHIN_S", 0.5)
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))
    return Desk(dataclasses.replace(settings, beat_s=0.05, checkpoint_every_s=0.2), stores, studio)


def read(desk: Desk, document: Any) -> Job:
    job = desk.stores.jobs.get(document["id"])
    assert job is not None
    return job


class TestTheStore:
    def test_that_files_fail_is_told_as_one_thing(self, blobs: Blobs, disk: Disk) -> None:
        blobs.put("me", "a", LARGE, ttl_s=60)
        disk.failures = -1
        with pytest.raises(FilesAway):
            blobs.put("me", "b", LARGE, ttl_s=60)
        with pytest.raises(FilesAway):
            blobs.read("me", "a")
        disk.failures = 0
        assert blobs.read("me", "a") == LARGE
        assert blobs.read("me", "b") is None

    def test_errors_that_are_no_disks_count_as_well(
        self, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class NoCredentials(Exception):
            """An object store's own kind of error."""

        def refuse(*_: Any, **__: Any) -> None:
            raise NoCredentials

        blobs = Blobs(stores.state, "memory://away", inline_bytes=1, high=0.9)
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
        with pytest.raises(FilesAway):
            blobs.put("me", "a", LARGE, ttl_s=60)

    def test_what_is_deleted_meanwhile_is_gone_and_swept_later(
        self, blobs: Blobs, disk: Disk, settings: Settings
    ) -> None:
        blobs.put("me", "a", LARGE, ttl_s=60)
        disk.failures = -1
        assert blobs.delete("me", "a")
        assert blobs.read("me", "a") is None
        files, root = fsspec.core.url_to_fs(settings.file_store_url)
        (left,) = files.find(root)
        os.utime(left, (1, 1))
        assert blobs.sweep() == 0
        disk.failures = 0
        assert blobs.sweep() == 1

    def test_tidying_up_goes_on_without_a_list_of_files(
        self, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError

        monkeypatch.setattr(LocalFileSystem, "find", refuse)
        monkeypatch.setattr(clients, "own_stores", lambda: stores)
        tasks.tidy.run()


class TestTheKeeper:
    @pytest.fixture
    def told(self) -> list[str]:
        return []

    @pytest.fixture
    def working(
        self, blobs: Blobs, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Keeper]:
        monkeypatch.setattr(keeper, "RETRY_S", 0.05)
        made = Keeper(blobs, "job_1", 60, lambda _, name: told.append(name))
        made.start()
        yield made
        made.rest()

    def test_what_could_not_be_stored_is_stored_later_and_so_is_what_comes_after(
        self, working: Keeper, blobs: Blobs, disk: Disk, told: list[str]
    ) -> None:
        disk.failures = 1
        working.offer("state", "state-1", LARGE)
        until(lambda: told == ["state-1"], within_s=5)
        working.offer("state", "state-2", LARGE)
        until(lambda: told == ["state-1", "state-2"], within_s=5)
        assert blobs.read("job_1", "state-2") == LARGE

    def test_a_state_that_waits_holds_up_no_preview(
        self, working: Keeper, disk: Disk, told: list[str]
    ) -> None:
        disk.failures = -1
        working.offer("state", "state-1", LARGE)
        working.offer("preview", "preview-1", b"small")
        until(lambda: told == ["preview-1"], within_s=5)


class TestWork:
    def test_a_result_is_stored_when_the_files_are_back(
        self, desk: Desk, http: FlaskClient, disk: Disk
    ) -> None:
        document = queue(http, query_string=SHORT)
        claim = start(desk.stores, document)
        disk.failures = 1
        work(desk, claim, "jobs")
        assert read(desk, document).status == "succeeded"
        assert disk.failures == 0

    def test_a_result_that_cannot_be_stored_may_be_asked_for_again(
        self, desk: Desk, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        document = queue(http, query_string=SHORT)

        def refuse(*_: Any) -> None:
            raise OSError(errno.ESTALE, "stale file handle")

        monkeypatch.setattr(LocalFileOpener, "write", refuse)
        work(desk, start(desk.stores, document), "jobs")
        job = read(desk, document)
        assert job.status == "failed"
        assert job.error is not None
        assert job.error["type"] == "/problems/storage-away"
        assert job.error["retryable"] is True
        assert "again later" in job.error["detail"]

    def test_a_paused_job_goes_on_from_the_state_before(
        self, desk: Desk, http: FlaskClient, disk: Disk
    ) -> None:
        document = queue(http, query_string=ENDLESS, data=encode(size=(160, 120)))
        thread = threading.Thread(target=work, args=(desk, start(desk.stores, document), "jobs"))
        thread.start()
        until(lambda: read(desk, document).checkpoint is not None)
        disk.failures = -1
        desk.stores.jobs.pause(document["id"])
        thread.join(20)
        job = read(desk, document)
        assert (job.status, bool(job.checkpoint)) == ("paused", True)


class TestTheGateway:
    def test_a_file_that_cannot_be_read_now_is_a_problem_of_ours(
        self, http: FlaskClient, disk: Disk
    ) -> None:
        body = PHOTO
        made = http.post("/v1/files", data=body, content_type="image/png").get_json()
        disk.failures = -1
        told = problem(http.get(f"/v1/files/{made['id']}"), 503, "storage-away")
        assert "try again" in told["detail"]
        problem(http.post("/v1/files", data=body, content_type="image/png"), 503, "storage-away")
        disk.failures = 0
        assert http.get(f"/v1/files/{made['id']}").get_data() == body
