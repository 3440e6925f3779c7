"""Collections over HTTP, on a real Redis and real files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import flask
import numpy as np
import pytest
import redis
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from pydantic import Field
from werkzeug.test import TestResponse

from lantern import registry, samples
from lantern.artifact import Outcome, Table
from lantern.call import Answer
from lantern.collections.folder import open_folder
from lantern.collections.library import Collections
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from services.backend import TorchServeBackend
from services.blobs import BLOB
from services.clients import Stores
from services.gateway import gathering
from services.gateway.guard import digest, new_key
from services.settings import Settings
from tests.services.gateway import PHOTO, encode, post, problem, queue
from tests.services.packing import gzipped_zeros, tar_header, tarred, zipped

ALL = "/v1/collections"
FILES = {"b.png": encode(seed=1), "cats/tom.jpg": encode("JPEG", seed=2), "a.webp": encode("WEBP")}


def create(http: FlaskClient, name: str = "mine", **options: Any) -> Any:
    response = http.post(ALL, json={"name": name}, **options)
    assert response.status_code == 201, response.get_data(as_text=True)
    return response.get_json()


def send(
    http: FlaskClient, data: bytes, kind: str = "application/zip", name: str = "mine", **more: Any
) -> TestResponse:
    return http.post(f"{ALL}/{name}/images", data=data, content_type=kind, **more)


def sent(http: FlaskClient, files: dict[str, bytes], name: str = "mine") -> Any:
    response = send(http, zipped(files), name=name)
    assert response.status_code in (200, 201), response.get_data(as_text=True)
    return response.get_json()


def part(name: str, data: bytes) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


def form(*files: tuple[str, bytes]) -> dict[str, Any]:
    body = b"".join(part(name, data) for name, data in files) + b"--b--\r\n"
    return {"data": body, "content_type": "multipart/form-data; boundary=b"}


def pictures(http: FlaskClient, name: str = "mine") -> dict[str, bytes]:
    """Download every picture of a collection, page by page."""
    found, cursor = {}, ""
    while cursor is not None:
        page = http.get(f"{ALL}/{name}", query_string={"limit": 2, "cursor": cursor}).get_json()
        for one in page["pictures"]:
            response = http.get(one["url"])
            assert response.content_type == one["media_type"]
            found[one["name"]] = response.data
            assert hashlib.sha256(response.data).hexdigest() == one["sha256"]
        cursor = page["next"]
    return found


@pytest.fixture
def mine(http: FlaskClient) -> Any:
    return create(http)


class TestACollection:
    def test_it_is_made_empty_and_found_by_id_and_name(self, http: FlaskClient) -> None:
        response = http.post(ALL, json={"name": "mine"})
        made = response.get_json()
        assert (response.status_code, response.headers["Location"]) == (201, f"{ALL}/{made['id']}")
        assert (made["name"], made["count"], made["bytes"], made["built_in"]) == (
            "mine", 0, 0, False,
        )  # fmt: skip
        for key in (made["id"], "mine"):
            found = http.get(f"{ALL}/{key}").get_json()
            assert found == made | {"pictures": [], "next": None}

    def test_it_tells_when_it_ends(self, http: FlaskClient, settings: Settings) -> None:
        from datetime import datetime

        ends = datetime.fromisoformat(create(http)["expires_at"]).timestamp()
        assert abs(ends - time.time() - settings.collection_ttl_s) < 5

    def test_own_and_built_in_ones_are_listed(self, http: FlaskClient, mine: Any) -> None:
        listed = http.get(ALL).get_json()["collections"]
        assert [one["name"] for one in listed] == ["mine", "samples"]
        assert listed[0] == mine

    def test_a_name_is_given_once(self, http: FlaskClient, mine: Any) -> None:
        problem(http.post(ALL, json={"name": "mine"}), 409, "name-taken")
        problem(http.post(ALL, json={"name": "samples"}), 409, "name-taken")
        assert http.delete(f"{ALL}/mine").status_code == 204
        assert create(http)["id"] != mine["id"]

    @pytest.mark.parametrize(
        "name", ["", "a b", "/tmp", "../x", "ä", ".x", "x" * 65, "col_" + "0" * 32, None, 7, ["a"]]
    )
    def test_what_is_no_name(self, http: FlaskClient, name: Any) -> None:
        document = problem(http.post(ALL, json={"name": name}), 422, "invalid-parameter")
        assert document["errors"][0]["pointer"] == "/name"

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"", "application/json", 400), (b"{", "application/json", 400),
            (b"[" * 100_000, "application/json", 400), (b"\xff", "application/json", 400),
            (b"[]", "application/json", 422), (b"{}", "application/json", 422),
            (b'{"name": "a", "x": 1}', "application/json", 422), (b"name=a", "text/plain", 415),
            (b'{"name": "\\ud800"}', "application/json", 422),
        ],
    )  # fmt: skip
    def test_a_body_that_is_no_request(
        self, http: FlaskClient, body: bytes, kind: str, status: int
    ) -> None:
        problem(http.post(ALL, data=body, content_type=kind), status)

    def test_there_may_be_so_many(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(max_collections=2)
        create(http, "a")
        create(http, "b")
        told = problem(http.post(ALL, json={"name": "c"}), 409, "too-many-collections")
        assert "2 collections" in told["detail"]

    def test_it_is_deleted_with_its_pictures(
        self, http: FlaskClient, mine: Any, client: redis.Redis, settings: Settings
    ) -> None:
        sent(http, FILES)
        assert http.delete(f"{ALL}/{mine['id']}").status_code == 204
        problem(http.get(f"{ALL}/mine"), 404, "not-found")
        problem(http.get(f"{ALL}/mine/images/b.png"), 404, "not-found")
        problem(http.delete(f"{ALL}/mine"), 404, "not-found")
        problem(send(http, zipped(FILES)), 404, "not-found")
        assert client.keys(f"{BLOB}*") == []
        assert not [path for path in (settings.run_path / "files").rglob("*") if path.is_file()]

    def test_the_documents_have_the_declared_form(self, http: FlaskClient, mine: Any) -> None:
        schema = http.get("/openapi.json").get_json()["components"]["schemas"]["Collection"]
        uploaded = sent(http, FILES | {"x.txt": b""})
        for document in (mine, uploaded, http.get(f"{ALL}/mine").get_json()):
            Draft202012Validator(schema).validate(document)
            assert document.keys() <= schema["properties"].keys()


class TestTheBuiltInOne:
    def test_it_has_the_samples(self, http: FlaskClient) -> None:
        found = http.get(f"{ALL}/samples", query_string={"limit": 200}).get_json()
        paths = samples.pictures()
        assert (found["id"], found["built_in"], found["expires_at"]) == ("samples", True, None)
        assert [one["name"] for one in found["pictures"]] == sorted(paths)
        assert found["bytes"] == sum(path.stat().st_size for path in paths.values())
        cat = next(one for one in found["pictures"] if one["name"] == "cat")
        assert (cat["width"], cat["height"], cat["media_type"]) == (451, 300, "image/png")
        assert http.get(cat["url"]).data == paths["cat"].read_bytes()
        assert found["digest"] == Collections().find("samples").digest

    def test_it_stays_as_it_is(self, http: FlaskClient) -> None:
        problem(http.delete(f"{ALL}/samples"), 409, "built-in")
        problem(http.delete(f"{ALL}/samples/images/cat"), 409, "built-in")
        problem(send(http, zipped(FILES), name="samples"), 409, "built-in")
        problem(http.get(f"{ALL}/samples/images/dog"), 404, "not-found")


class TestUploading:
    @pytest.mark.parametrize(
        ("pack", "kind"),
        [
            (zipped, "application/zip"), (zipped, "application/x-zip-compressed"),
            (tarred, "application/x-tar"), (tarred, "application/octet-stream"),
            (lambda files: tarred(files, pack=":gz"), "application/gzip"),
            (lambda files: tarred(files, pack=":gz"), ""),
        ],
    )  # fmt: skip
    def test_an_archive_brings_its_pictures_with_their_folders(
        self, http: FlaskClient, mine: Any, pack: Callable[..., bytes], kind: str
    ) -> None:
        response = send(http, pack(FILES), kind)
        told = response.get_json()
        assert response.status_code == 201
        assert (told["added"], told["count"], told["skipped"]) == (3, 3, [])
        assert told["bytes"] == sum(map(len, FILES.values()))
        assert pictures(http) == FILES

    def test_a_form_brings_its_files(self, http: FlaskClient, mine: Any) -> None:
        response = http.post(f"{ALL}/mine/images", **form(*FILES.items()))
        assert (response.status_code, response.get_json()["added"]) == (201, 3)
        assert pictures(http) == FILES

    def test_a_form_may_have_many_large_files(self, http: FlaskClient, mine: Any) -> None:
        files = {f"{n}.png": encode(size=(400, 300), seed=n) for n in range(4)}
        assert all(len(data) > 300_000 for data in files.values())
        assert http.post(f"{ALL}/mine/images", **form(*files.items())).status_code == 201
        assert pictures(http) == files
        small = [(f"{n}.png", PHOTO) for n in range(100, 300)]
        assert http.post(f"{ALL}/mine/images", **form(*small)).get_json()["added"] == 200

    def test_the_digest_is_that_of_the_same_folder(
        self, http: FlaskClient, mine: Any, tmp_path: Path
    ) -> None:
        for name, data in FILES.items():
            path = tmp_path / "pets" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        assert sent(http, FILES)["digest"] == open_folder(tmp_path / "pets").digest

    def test_sending_again_and_replacing(self, http: FlaskClient, mine: Any) -> None:
        first = sent(http, FILES)
        again = send(http, tarred(FILES), "application/x-tar")
        assert (again.status_code, again.get_json()["unchanged"]) == (200, 3)
        assert again.get_json()["digest"] == first["digest"]
        other = sent(http, {"b.png": PHOTO, "c.png": PHOTO})
        assert (other["added"], other["replaced"], other["unchanged"]) == (1, 1, 0)
        assert pictures(http) == FILES | {"b.png": PHOTO, "c.png": PHOTO}

    def test_what_is_no_picture_is_told(self, http: FlaskClient, mine: Any) -> None:
        files = {
            "ok.png": PHOTO, "notes.txt": b"x", "fake.png": b"no picture", "cut.png": PHOTO[:-40],
            "../up.png": PHOTO, "inner.zip": zipped(FILES), ".hidden.png": PHOTO,
            "__MACOSX/._ok.png": b"x", "tiny.png": encode(size=(4, 4)), "bad\x07.txt": b"",
        }  # fmt: skip
        told = sent(http, files)
        reasons = {one["name"]: one["reason"] for one in told["skipped"]}
        assert told["skipped_count"] == len(reasons) == 7
        assert "ends in none" in reasons["notes.txt"]
        assert "not a readable" in reasons["fake.png"]
        assert "cut short" in reasons["cut.png"]
        assert "leads out" in reasons["../up.png"]
        assert "archive in an archive" in reasons["inner.zip"]
        assert "at least 16 px" in reasons["tiny.png"]
        assert "bad?.txt" in reasons
        assert list(pictures(http)) == ["ok.png"]

    def test_the_list_of_what_was_no_picture_has_an_end(self, http: FlaskClient, mine: Any) -> None:
        told = sent(http, {f"{n}.txt": b"" for n in range(300)} | {"ok.png": PHOTO})
        assert (told["skipped_count"], len(told["skipped"])) == (300, 100)

    def test_the_same_name_twice_in_one_upload(self, http: FlaskClient, mine: Any) -> None:
        told = http.post(
            f"{ALL}/mine/images", **form(("a.png", FILES["b.png"]), ("./a.png", PHOTO))
        ).get_json()
        assert (told["added"], told["skipped_count"]) == (1, 1)
        assert pictures(http) == {"a.png": FILES["b.png"]}

    def test_nothing_but_wrong_things_is_refused_with_the_reasons(
        self, http: FlaskClient, mine: Any
    ) -> None:
        files = {"a.txt": b"", "b.txt": b"", "c.png": b"x"}
        document = problem(send(http, zipped(files)), 422, "no-pictures")
        assert document["errors"][0]["detail"].startswith("2 times: its name ends in none")
        problem(send(http, zipped({})), 422, "no-pictures")
        problem(http.post(f"{ALL}/mine/images", **form(("a.png", b""))), 422, "no-pictures")

    def test_names_of_all_kinds_can_be_asked_for(self, http: FlaskClient, mine: Any) -> None:
        names = (
            "a b.png",
            "50%.png",
            "q?x=1#y.png",
            "ä/日本.png",
            "+&=.png",
            "%2e%2e.png",
            "'\".png",
        )
        files = dict.fromkeys(names, PHOTO)
        sent(http, files)
        assert pictures(http) == files
        listed = http.get(f"{ALL}/mine").get_json()["pictures"]
        for one in listed:
            assert http.delete(one["url"]).status_code == 204
        assert pictures(http) == {}


class TestWrongUploads:
    @pytest.mark.parametrize(
        ("data", "kind", "status", "code"),
        [
            (b"", "application/zip", 400, "empty-body"),
            (PHOTO, "image/png", 415, "unsupported-media-type"),
            (b"{}", "application/json", 415, "unsupported-media-type"),
            (PHOTO, "application/octet-stream", 422, "bad-archive"),
            (b"PK\x03\x04nonsense", "application/zip", 422, "bad-archive"),
            (zipped(FILES)[:-30], "application/zip", 422, "bad-archive"),
            (tarred(FILES)[:2000], "application/x-tar", 422, "bad-archive"),
            (b"\x1f\x8b" + bytes(50), "application/gzip", 422, "bad-archive"),
            (b"x", "multipart/form-data", 400, "malformed"),
            (b"x", "multipart/form-data; boundary=b", 400, "malformed"),
            (b"--b\r\n\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400, "malformed"),
            (b"--b--\r\n", "multipart/form-data; boundary=b", 422, "no-pictures"),
            (
                b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
                "multipart/form-data; boundary=b", 422, "unknown-field",
            ),
            (
                b'--b\r\nContent-Disposition: form-data; name="x"; filename="a.png"\r\n\r\ncut',
                "multipart/form-data; boundary=b", 400, "malformed",
            ),
            (
                b"--b\r\nA: " + b"x" * 2**21,
                "multipart/form-data; boundary=b", 413, "form-too-large",
            ),
        ],
    )  # fmt: skip
    def test_each_is_refused_for_what_it_is(
        self, http: FlaskClient, mine: Any, data: bytes, kind: str, status: int, code: str
    ) -> None:
        problem(send(http, data, kind), status, code)
        assert pictures(http) == {}

    def test_a_content_encoding(self, http: FlaskClient, mine: Any) -> None:
        response = send(http, zipped(FILES), headers={"Content-Encoding": "gzip"})
        problem(response, 415, "unsupported-media-type")

    def test_a_form_of_too_many_parts(self, http: FlaskClient, mine: Any) -> None:
        response = http.post(f"{ALL}/mine/images", **form(*[("a.txt", b"x")] * 1001))
        assert "1000 parts" in problem(response, 413, "form-too-large")["detail"]

    def test_bombs(self, http: FlaskClient, mine: Any, stores: Stores) -> None:
        most = 2 * Settings().max_collection_upload_bytes
        bomb = gzipped_zeros(tar_header("x.txt", most), most)
        many = zipped({f"{n}.txt": b"" for n in range(10_001)})
        for data in (bomb, many):
            started = time.thread_time()
            problem(send(http, data, "application/octet-stream"), 413, "archive-too-large")
            assert time.thread_time() - started < 3

    def test_too_many_pixels(
        self, http: FlaskClient, mine: Any, monkeypatch: pytest.MonkeyPatch, settings: Settings
    ) -> None:
        monkeypatch.setattr(gathering, "MOST_PIXELS", 2 * 64 * 48)
        problem(send(http, zipped(FILES)), 413, "too-many-pixels")
        assert pictures(http) == {}
        assert not [path for path in (settings.run_path / "files").rglob("*") if path.is_file()]
        files = dict(list(FILES.items())[:2])
        assert sent(http, files)["added"] == 2

    def test_a_body_may_be_larger_than_others_but_not_than_its_own_limit(
        self, make_http: Callable[..., FlaskClient]
    ) -> None:
        http = make_http(max_upload_bytes=5000, max_collection_upload_bytes=40_000)
        create(http)
        assert 9000 < len(PHOTO) < 10_000
        assert send(http, zipped({"a.png": PHOTO})).status_code == 201
        large = zipped({f"{n}.png": PHOTO for n in range(5)})
        document = problem(send(http, large), 413, "too-large")
        assert "40000" in document["detail"]
        document = problem(http.post(ALL, data=large, content_type="application/json"), 413)
        assert "5000" in document["detail"]
        many = form(*((f"{n}.png", PHOTO) for n in range(5)))
        problem(http.post(f"{ALL}/mine/images", **many), 413, "too-large")

    def test_a_collection_that_is_full(self, make_http: Callable[..., FlaskClient]) -> None:
        http = make_http(max_collection_pictures=2, max_collection_bytes=25_000)
        create(http)
        problem(send(http, zipped(dict.fromkeys("123", b"x") | FILES)), 413, "collection-full")
        sent(http, {"a.png": PHOTO})
        document = problem(send(http, zipped({"b.png": PHOTO, "c.png": PHOTO})), 413)
        assert "2 of 25000 bytes" in document["detail"]
        assert list(pictures(http)) == ["a.png"]

    def test_a_nearly_full_store(self, http: FlaskClient, mine: Any, client: redis.Redis) -> None:
        client.config_set("maxmemory", 1)
        response = send(http, zipped(FILES))
        problem(response, 507, "storage-full")
        assert response.headers["Retry-After"]
        problem(http.post(ALL, json={"name": "other"}), 507, "storage-full")

    def test_a_full_store_is_told_when_it_fills_meanwhile(
        self, http: FlaskClient, mine: Any, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stores.blobs.__class__, "require_room", lambda blobs: None)
        stores.state.config_set("maxmemory", 1)
        problem(send(http, zipped(FILES)), 507, "storage-full")

    def test_too_many_uploads_at_a_time(
        self, app: flask.Flask, http: FlaskClient, mine: Any
    ) -> None:
        uploads = app.extensions["lantern"].uploads
        taken = [uploads.take("nobody") for _ in range(9)]
        told = problem(send(http, zipped(FILES)), 429, "too-many-uploads")
        assert "of 4 at a time of one key" in told["detail"]
        for was_taken in taken:
            if was_taken:
                uploads.give_back("nobody")
        for _ in range(10):  # each gives its seat back, also the refused ones
            problem(send(http, b"x"), 422)
        assert sent(http, FILES)["added"] == 3

    @pytest.mark.parametrize("name", ["nope", "col_" + "0" * 32, "..", "a%2fb"])
    def test_a_collection_that_is_not_there(self, http: FlaskClient, name: str) -> None:
        for response in (
            http.get(f"{ALL}/{name}"), http.delete(f"{ALL}/{name}"),
            send(http, zipped(FILES), name=name), http.get(f"{ALL}/{name}/images/a.png"),
            http.delete(f"{ALL}/{name}/images/a.png"),
        ):  # fmt: skip
            assert response.status_code in (404, 405)
            problem(response, response.status_code)

    def test_links_of_an_archive_are_not_followed(self, http: FlaskClient, mine: Any) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, str(samples.pictures()["cat"])
            archive.addfile(link)
        document = problem(send(http, out.getvalue(), "application/x-tar"), 422, "no-pictures")
        assert "link" in document["errors"][0]["detail"]

    @pytest.mark.parametrize("seed", range(6))
    def test_damaged_bytes_are_never_a_fault_of_ours(
        self, http: FlaskClient, mine: Any, seed: int
    ) -> None:
        chance = np.random.default_rng(seed)
        body = form(("a.png", PHOTO), ("b.png", PHOTO))["data"]
        for whole, kind in (
            (zipped(FILES), "application/zip"), (tarred(FILES, pack=":gz"), "application/gzip"),
            (tarred(FILES), "application/x-tar"),
            (body, "multipart/form-data; boundary=b"),
        ):  # fmt: skip
            for _ in range(12):
                data = np.frombuffer(whole, np.uint8).copy()
                data[chance.integers(0, len(data), 6)] = chance.integers(0, 256, 6)
                response = send(http, data.tobytes()[: chance.integers(100, len(data) + 1)], kind)
                assert response.status_code in (200, 201, 400, 413, 422), response.data


class TestPages:
    def test_pictures_come_page_by_page_in_the_order_of_their_names(
        self, http: FlaskClient, mine: Any
    ) -> None:
        names = [f"{n:02}/x.png" for n in range(7)]
        sent(http, dict.fromkeys(reversed(names), PHOTO))
        first = http.get(f"{ALL}/mine?limit=3").get_json()
        assert [one["name"] for one in first["pictures"]] == names[:3]
        second = http.get(f"{ALL}/mine?limit=3&cursor={first['next']}").get_json()
        http.delete(f"{ALL}/mine/images/{names[5]}")
        third = http.get(f"{ALL}/mine?limit=3&cursor={second['next']}").get_json()
        assert [one["name"] for one in second["pictures"]] == names[3:6]
        assert [one["name"] for one in third["pictures"]] == names[6:]
        assert third["next"] is None

    def test_an_exact_page_is_the_last(self, http: FlaskClient, mine: Any) -> None:
        sent(http, FILES)
        assert http.get(f"{ALL}/mine?limit=3").get_json()["next"] is None

    @pytest.mark.parametrize(
        ("query", "status"),
        [("limit=0", 422), ("limit=201", 422), ("limit=x", 422), ("cursor=%FF", 400),
         ("cursor=a", 400), ("cursor=4pyTgA==", 400)],
    )  # fmt: skip
    def test_a_page_that_does_not_exist(
        self, http: FlaskClient, mine: Any, query: str, status: int
    ) -> None:
        problem(http.get(f"{ALL}/mine?{query}"), status)

    def test_a_picture_the_caller_has_is_not_sent_again(self, http: FlaskClient, mine: Any) -> None:
        sent(http, FILES)
        url = f"{ALL}/mine/images/cats/tom.jpg"
        first = http.get(url)
        assert (first.data, first.content_type) == (FILES["cats/tom.jpg"], "image/jpeg")
        again = http.get(url, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert http.head(url).status_code == 200


class TestOwners:
    @pytest.fixture
    def keys(self) -> tuple[str, str]:
        return new_key(), new_key()

    @pytest.fixture
    def http(self, make_http: Callable[..., FlaskClient], keys: tuple[str, str]) -> FlaskClient:
        return make_http(api_keys=",".join(map(digest, keys)))

    def test_what_is_anothers_is_not_there(self, http: FlaskClient, keys: tuple[str, str]) -> None:
        me, you = ({"Authorization": f"Bearer {key}"} for key in keys)
        made = create(http, headers=me)
        assert send(http, zipped(FILES), headers=me).status_code == 201
        for name in (made["id"], "mine"):
            for url in (f"{ALL}/{name}", f"{ALL}/{name}/images/b.png"):
                problem(http.get(url, headers=you), 404, "not-found")
                problem(http.delete(url, headers=you), 404, "not-found")
            problem(send(http, zipped(FILES), name=name, headers=you), 404, "not-found")
            assert http.get(f"{ALL}/{name}/images/b.png", headers=me).data == FILES["b.png"]
        listed = http.get(ALL, headers=you).get_json()["collections"]
        assert [one["name"] for one in listed] == ["samples"]
        assert create(http, headers=you)["id"] != made["id"]

    def test_without_a_key_there_is_nothing(self, http: FlaskClient) -> None:
        for response in (http.get(ALL), http.post(ALL, json={"name": "a"})):
            problem(response, 401, "unauthorized")


class ShadeParams(Params):
    collection: str = Field("samples", max_length=64, description="pictures to look at")


@pytest.fixture
def shades(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two techniques that read a collection, thrown away after the test."""
    known = {found.name: found for found in registry.every()}
    monkeypatch.setattr(registry, "_techniques", known)
    for name, runs in (("shades", "job"), ("tints", "interactive")):

        def shades(
            image: Annotated[Image, "any picture"], collections: Collections, params: ShadeParams
        ) -> Outcome:
            """Say how bright each picture of a collection is."""
            found = collections.find(params.collection)
            row = {entry.name: float(entry.image.pixels.mean()) for entry in found}
            return Outcome((Table("shades", (row,)),))

        shades.__name__ = name
        technique(name, family="inference", runs=runs, source="none", outputs={"shades": "greys"})(  # type: ignore[arg-type]
            shades
        )


SHADES = "/v1/techniques/shades"


@pytest.mark.usefixtures("shades")
class TestJobs:
    def test_a_job_is_given_the_collection_as_it_is(
        self, http: FlaskClient, mine: Any, stores: Stores
    ) -> None:
        sent(http, FILES)
        job = queue(http, path=SHADES, query_string={"collection": "mine"})
        assert job["params"] == {"collection": "mine"}
        kept = stores.blobs.read(job["id"], "collection")
        assert kept is not None
        assert b"cats/tom.jpg" in kept
        queue(http, path=SHADES, query_string={"collection": mine["id"]})

    def test_a_built_in_one_needs_none(self, http: FlaskClient, stores: Stores) -> None:
        job = queue(http, path=SHADES)
        assert stores.blobs.read(job["id"], "collection") is None

    @pytest.mark.parametrize(
        "name", ["nope", "/etc", "..", "./x", "col_" + "0" * 32, "%00", "ü", "file:///etc"]
    )
    def test_an_unknown_one_is_refused_at_once(
        self, http: FlaskClient, mine: Any, stores: Stores, name: str
    ) -> None:
        response = post(http, SHADES, query_string={"collection": name})
        document = problem(response, 422, "unknown-collection")
        assert document["errors"][0]["pointer"] == "/params/collection"
        assert "mine, samples" in document["detail"]
        assert stores.jobs.counts()["queued"] == 0

    def test_a_folder_is_never_read(self, http: FlaskClient, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(PHOTO)
        response = post(http, SHADES, query_string={"collection": str(tmp_path)[:64]})
        problem(response, 422, "unknown-collection")

    def test_an_empty_one_is_refused(self, http: FlaskClient, mine: Any) -> None:
        response = post(http, SHADES, query_string={"collection": "mine"})
        document = problem(response, 422, "empty-collection")
        assert document["errors"][0]["pointer"] == "/params/collection"

    def test_anothers_is_refused(self, make_http: Callable[..., FlaskClient]) -> None:
        keys = new_key(), new_key()
        http = make_http(api_keys=",".join(map(digest, keys)))
        me, you = ({"Authorization": f"Bearer {key}"} for key in keys)
        made = create(http, headers=me)
        send(http, zipped(FILES), headers=me)
        for name in ("mine", made["id"]):
            response = post(http, SHADES, query_string={"collection": name}, headers=you)
            problem(response, 422, "unknown-collection")

    def test_the_same_call_on_other_pictures_is_another_call(
        self, http: FlaskClient, mine: Any, stores: Stores
    ) -> None:
        def cache(job: Any) -> bytes | None:
            return stores.state.hget(f"lantern:job:{job['id']}", "cache")  # type: ignore[return-value]

        sent(http, FILES)
        first, same = (queue(http, path=SHADES, query_string={"collection": "mine"}) for _ in "12")
        sent(http, {"new.png": PHOTO})
        other = queue(http, path=SHADES, query_string={"collection": "mine"})
        http.delete(f"{ALL}/mine/images/new.png")
        back = queue(http, path=SHADES, query_string={"collection": "mine"})
        assert cache(first) == cache(same) == cache(back) != cache(other)

    def test_a_call_that_is_sent_again_finds_its_job_whatever_came_since(
        self, http: FlaskClient, mine: Any
    ) -> None:
        sent(http, FILES)
        options: dict[str, Any] = {
            "query_string": {"collection": "mine"}, "headers": {"Idempotency-Key": "k"},
        }  # fmt: skip
        first = queue(http, path=SHADES, **options)
        sent(http, {"new.png": PHOTO})
        again = post(http, SHADES, **options)
        assert again.get_json()["id"] == first["id"]
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_a_deleted_job_takes_the_list_of_its_pictures_along(
        self, http: FlaskClient, mine: Any, client: redis.Redis
    ) -> None:
        sent(http, FILES)
        job = queue(http, path=SHADES, query_string={"collection": "mine"})
        http.post(f"/v1/jobs/{job['id']}/cancel")
        assert http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.keys(f"{BLOB}{job['id']}/*") == []

    def test_a_job_prolongs_the_collections_time(
        self, http: FlaskClient, mine: Any, client: redis.Redis
    ) -> None:
        sent(http, FILES)
        key = f"lantern:collection:{mine['id']}"
        client.expire(key, 100)
        client.hset(key, "expires_ms", int(time.time() * 1000) + 100_000)
        for path in (SHADES, "/v1/techniques/tints"):
            queue(http, path=path, query_string={"collection": "mine"})
            assert client.ttl(key) > 29 * 24 * 3600


@pytest.mark.usefixtures("shades")
class TestAtOnce:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the engine is asked for; it answers anything."""
        calls: list[Any] = []

        def perform(backend: TorchServeBackend, found: Any, call: Any) -> Answer:
            calls.append(call)
            return Answer(b"[]", "application/json", {})

        monkeypatch.setattr(TorchServeBackend, "perform", perform)
        return calls

    def test_the_engine_has_the_built_in_ones(self, http: FlaskClient, asked: list[Any]) -> None:
        response = post(http, "/v1/techniques/tints")
        assert (response.status_code, len(asked)) == (200, 1)
        assert response.headers["ETag"]

    def test_other_ones_are_read_by_a_job(
        self, http: FlaskClient, mine: Any, asked: list[Any], stores: Stores
    ) -> None:
        sent(http, FILES)
        job = queue(http, path="/v1/techniques/tints", query_string={"collection": "mine"})
        record = stores.jobs.get(job["id"])
        assert record is not None
        assert (asked, record.lane) == ([], "fast")


def test_two_gateways_show_the_same(
    http: FlaskClient, make_http: Callable[..., FlaskClient], mine: Any, settings: Settings
) -> None:
    other = make_http(run_dir=settings.run_dir)
    sent(http, FILES)
    assert pictures(other) == FILES
