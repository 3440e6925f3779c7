"""What was answered by weights that are replaced is not answered again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from lantern.records import DEFAULT_MODEL, RECORDS
from services.clients import Stores
from services.settings import Settings
from tests.services.gateway import PAINT, encode, finish, post, queue

CLASSIFY = "/v1/techniques/classify"
OWN_NETWORK = "starry-night"
Http = Callable[..., FlaskClient]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of the usual network, in a file of the test's own."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"first")
    changed = dataclasses.replace(RECORDS[DEFAULT_MODEL], weights_path=lambda: path)
    monkeypatch.setitem(RECORDS, DEFAULT_MODEL, changed)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy of the styles."""
    shutil.copytree(Settings().styles_path, tmp_path / "store" / "styles")
    return tmp_path / "store"


def etag(http: FlaskClient, path: str, **params: Any) -> str:
    """Find the ETag of a call: with `*` any is taken as known."""
    response = post(http, path, headers={"If-None-Match": "*"}, query_string=params)
    assert (response.status_code, response.data) == (304, b"")
    return response.headers["ETag"]


def touch(path: Path) -> None:
    """Replace a file by one of the same size."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.mark.parametrize("replace", [touch, lambda path: path.write_bytes(b"a longer second")])
def test_a_replaced_network_gives_a_new_answer(
    http: FlaskClient, weights: Path, replace: Callable[[Path], None]
) -> None:
    before = etag(http, CLASSIFY)
    assert etag(http, CLASSIFY) == before
    replace(weights)
    assert etag(http, CLASSIFY) != before


def test_a_replaced_network_makes_a_job_run_again(
    http: FlaskClient, stores: Stores, weights: Path
) -> None:
    key = {"Idempotency-Key": "k"}
    first = queue(http, headers=key)
    finish(stores, first)
    assert queue(http)["status"] == "succeeded"
    touch(weights)
    assert queue(http)["status"] == "queued"
    # whoever sends a call again wants its job, not another
    assert queue(http, headers=key)["id"] == first["id"]


@pytest.mark.parametrize("file", [f"{OWN_NETWORK}.safetensors", "shared.safetensors"])
def test_a_replaced_style_gives_a_new_answer(make_http: Http, store: Path, file: str) -> None:
    http = make_http(model_store=str(store))
    before = etag(http, PAINT, style=OWN_NETWORK)
    assert etag(http, PAINT, style=OWN_NETWORK) == before
    touch(store / "styles" / file)
    assert etag(http, PAINT, style=OWN_NETWORK) != before


def test_a_replaced_style_makes_a_job_run_again(
    make_http: Http, stores: Stores, store: Path
) -> None:
    http = make_http(model_store=str(store))
    call: dict[str, Any] = {"path": PAINT, "headers": {"Prefer": "respond-async"}}
    finish(stores, queue(http, **call))
    assert queue(http, **call)["status"] == "succeeded"
    touch(store / "styles" / "shared.safetensors")
    assert queue(http, **call)["status"] == "queued"


def test_results_of_the_same_call_have_the_same_etag(http: FlaskClient, stores: Stores) -> None:
    first = queue(http)
    finish(stores, first)
    again, other = queue(http), queue(http, data=encode(seed=1))
    finish(stores, other)
    tags = [http.get(job["links"]["result"]).headers["ETag"] for job in (first, again, other)]
    assert again["id"] != first["id"]
    assert tags[0] == tags[1] != tags[2]
    known = http.get(again["links"]["result"], headers={"If-None-Match": tags[0]})
    assert known.status_code == 304


@pytest.mark.parametrize(("path", "style"), [(CLASSIFY, None), (PAINT, OWN_NETWORK)])
def test_no_file_is_read_for_it(http: FlaskClient, path: str, style: str | None) -> None:
    params = {} if style is None else {"style": style}
    etag(http, path, **params)
    opened: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        etag(http, path, **params)
    finally:
        watching.clear()
    assert opened == []
