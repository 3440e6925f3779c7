"""Calls of techniques that take several pictures, perhaps one, or none."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import flask
import PIL.Image
import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator

from lantern.image import LIMITS
from services.clients import Stores
from tests.services.gateway import encode, finish, multipart, post, problem, queue, start

pytestmark = pytest.mark.usefixtures("invented")

COLLAGE, NOISE, SHOWN = (f"/v1/techniques/{name}" for name in ("collage", "noise", "shown"))
RED, GREEN, BLUE, GREY = (encode(seed=seed) for seed in range(4))
SLOTS = [("image", RED), ("style", GREEN), ("style", BLUE), ("wide_extra", GREY)]


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def parts(*slots: tuple[str, bytes], **fields: str) -> dict[str, Any]:
    """Make a form; a slot that is named again is a part that is repeated."""
    form: dict[str, Any] = {name: [] for name, _ in slots}
    for name, data in slots:
        form[name].append((io.BytesIO(data), "x.png"))
    return {"data": form | fields, "content_type": "multipart/form-data"}


def in_json(inputs: Any = None, **fields: Any) -> dict[str, Any]:
    body = fields if inputs is None else fields | {"inputs": inputs}
    return {"data": json.dumps(body), "content_type": "application/json"}


def kept(stores: Stores, job: Any) -> dict[str, bytes | None]:
    """Return the pictures that are stored for a job, as its worker will find them."""
    made = stores.jobs.get(job["id"])
    assert made is not None
    return {name: stores.blobs.read(made.id, f"input-{name}") for name in made.call["inputs"]}


class TestSeveral:
    def test_the_forms_make_the_same_call(self, http: FlaskClient, stores: Stores) -> None:
        file = post(http, "/v1/files", data=BLUE).get_json()["id"]
        inputs = {
            "image": data_url(RED),
            "style": [data_url(GREEN), file],
            "wide_extra": [data_url(GREY)],
        }
        for form in (parts(*SLOTS), in_json(inputs)):
            job = queue(http, path=COLLAGE, **form)
            assert kept(stores, job) == {
                "image": RED, "style": GREEN, "style-2": BLUE, "wide_extra": GREY
            }  # fmt: skip

    def test_a_slot_for_several_takes_a_single_one_as_it_is(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        inputs = {"image": data_url(RED), "style": data_url(GREEN)}
        job = queue(http, path=COLLAGE, **in_json(inputs))
        assert kept(stores, job) == {"image": RED, "style": GREEN}

    def test_a_slot_for_one_takes_a_list_of_one(self, http: FlaskClient, stores: Stores) -> None:
        inputs = {"image": [data_url(RED)], "style": [data_url(BLUE)], "wide_extra": []}
        job = queue(http, path=COLLAGE, **in_json(inputs))
        assert kept(stores, job) == {"image": RED, "style": BLUE}

    @pytest.mark.parametrize(
        ("slots", "code", "pointer"),
        [
            ([("image", RED)], "missing-input", "/inputs/style"),
            ([*SLOTS, ("image", RED)], "repeated-input", "/inputs/image/1"),
            ([*SLOTS, ("mask", RED), ("mask", RED)], "repeated-input", "/inputs/mask/1"),
            ([*SLOTS, ("style", RED), ("style", RED)], "too-many-inputs", "/inputs/style/3"),
            ([*SLOTS, ("style-3", RED)], "unknown-input", "/inputs"),
            ([("image", RED), ("style", GREEN), ("style", b"x")], "", "/inputs/style/1"),
            ([("image", RED), ("style", BLUE[:-500]), ("style", RED)], "", "/inputs/style/0"),
            ([("image", RED), ("style", b"x")], "", "/inputs/style"),
        ],
    )
    def test_what_is_wrong_is_pointed_at(
        self, http: FlaskClient, slots: list[tuple[str, bytes]], code: str, pointer: str
    ) -> None:
        inputs: dict[str, list[str]] = {}
        for name, data in slots:
            inputs.setdefault(name, []).append(data_url(data))
        for form in (parts(*slots), in_json(inputs)):
            document = problem(post(http, COLLAGE, **form), 422, code or "undecodable-image")
            assert [error["pointer"] for error in document["errors"]] == [pointer]

    @pytest.mark.parametrize("entry", [None, 5, [1], [["x"]], {"a": "b"}, [None], ["file_0"]])
    def test_what_stands_for_no_picture_is_pointed_at(self, http: FlaskClient, entry: Any) -> None:
        inputs = {"image": data_url(RED), "style": data_url(RED), "mask": entry}
        document = problem(post(http, COLLAGE, **in_json(inputs)), 422)
        (error,) = document["errors"]
        assert error["pointer"] == "/inputs/mask" + ("/0" if isinstance(entry, list) else "")

    def test_another_order_or_place_makes_another_call(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        same = [("image", RED), ("style", GREEN), ("style", BLUE)]
        others = [
            [("image", RED), ("style", BLUE), ("style", GREEN)],
            [("image", RED), ("style", GREEN), ("mask", BLUE)],
            [("image", RED), ("style", GREEN), ("wide_extra", BLUE)],
        ]
        headers = {"Idempotency-Key": "k"}
        job = queue(http, path=COLLAGE, headers=headers, **parts(*same))
        again = post(http, COLLAGE, headers=headers, **parts(*same))
        assert (again.get_json()["id"], again.headers["Idempotent-Replayed"]) == (job["id"], "true")
        finish(stores, job)
        assert queue(http, path=COLLAGE, **parts(*same))["status"] == "succeeded"  # from memory
        for other in others:
            assert queue(http, path=COLLAGE, **parts(*other))["status"] == "queued"
            response = post(http, COLLAGE, headers=headers, **parts(*other))
            problem(response, 422, "idempotency-conflict")

    def test_a_bare_picture_cannot_fill_them(self, http: FlaskClient) -> None:
        document = problem(post(http, COLLAGE, data=RED), 422, "missing-input")
        assert "image, mask, style, wide_extra" in document["detail"]

    def test_all_of_them_are_stored_and_removed_with_their_job(
        self, http: FlaskClient, stores: Stores
    ) -> None:
        job = queue(http, path=COLLAGE, **parts(*SLOTS))
        names = [f"input-{name}" for name in kept(stores, job)]
        claim = start(stores, job)
        stores.jobs.finish(claim, "failed", error={"detail": "x"})
        assert http.delete(job["links"]["self"]).status_code == 204
        assert [stores.blobs.read(job["id"], name) for name in names] == [None] * 4


class TestTogether:
    def test_pictures_have_limits_together(self, http: FlaskClient) -> None:
        """Each may be as large as any picture; three such are more than a call may have."""
        side = 4000
        assert side * side <= LIMITS.max_pixels
        out = io.BytesIO()
        PIL.Image.new("1", (side, side)).save(out, "PNG")
        slots = [("image", out.getvalue()), ("style", out.getvalue()), ("style", out.getvalue())]
        document = problem(post(http, COLLAGE, **parts(*slots)), 422, "image-too-large")
        assert "48000000 pixels together" in document["detail"]
        assert "33554432" in document["detail"]

    def test_naming_one_upload_many_times_holds_it_no_oftener(self, http: FlaskClient) -> None:
        padded = RED + bytes(LIMITS.max_bytes - len(RED))
        file = post(http, "/v1/files", data=padded).get_json()["id"]
        # the last is never looked for: what comes before is too much to hold already
        inputs = {"image": file, "style": [file, file, "file_" + 64 * "0"]}
        document = problem(post(http, COLLAGE, **in_json(inputs)), 422, "image-too-large")
        assert f"at most {2 * LIMITS.max_bytes} are taken" in document["detail"]

    def test_the_request_as_a_whole_has_its_limit(
        self, make_http: Callable[..., FlaskClient]
    ) -> None:
        http = make_http(max_upload_bytes=3 * len(RED))
        queue(http, path=COLLAGE, **parts(("image", RED), ("style", GREEN)))
        problem(post(http, COLLAGE, **parts(*SLOTS)), 413, "too-large")


class TestNoFile:
    """Some clients send a picture as a part without a filename, which makes it a field."""

    def test_a_picture_is_asked_for_as_a_file(self, http: FlaskClient) -> None:
        text = RED.decode("latin-1")
        form = parts(("image", GREEN), style=text)
        document = problem(post(http, COLLAGE, **form), 422, "not-a-file")
        assert document["errors"][0]["pointer"] == "/inputs/style"
        assert "filename" in document["detail"]

    @pytest.mark.parametrize("path", [COLLAGE, "/v1/files"])
    def test_a_large_one_is_told_what_its_limit_is(self, http: FlaskClient, path: str) -> None:
        head = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        body = head + bytes(1024 * 1024 + 1) + b"\r\n--b--\r\n"
        kind = "multipart/form-data; boundary=b"
        document = problem(post(http, path, data=body, content_type=kind), 413, "form-too-large")
        assert "1048576 bytes" in document["detail"]
        assert "filename" in document["detail"]

    def test_an_upload_without_a_file(self, http: FlaskClient) -> None:
        told = problem(post(http, "/v1/files", **parts(image="x")), 422, "repeated-input")
        assert "filename" in told["detail"]

    def test_there_may_be_so_many_parts(self, http: FlaskClient) -> None:
        many = {f"field{number}": "x" for number in range(1000)}
        told = problem(post(http, COLLAGE, **parts(**many)), 413, "form-too-large")
        assert f"{http.application.config['MAX_FORM_PARTS']} parts" in told["detail"]


class TestNone:
    @pytest.mark.parametrize(
        "form",
        [
            {"data": b"", "content_type": None},
            {"data": b"", "content_type": "image/png", "query_string": {"size": "40"}},
            {"data": b"", "content_type": "application/x-www-form-urlencoded"},
            in_json(),
            in_json({}),
            in_json(params={"size": 20}, seed=5),
            multipart(size="20"),
            {"data": b"--x--\r\n", "content_type": "multipart/form-data; boundary=x"},
        ],
    )
    def test_a_technique_without_slots_needs_no_body(
        self, http: FlaskClient, stores: Stores, form: dict[str, Any]
    ) -> None:
        assert kept(stores, queue(http, path=NOISE, **form)) == {}

    def test_its_parameters_are_read_all_the_same(self, http: FlaskClient) -> None:
        forms = ({"data": b"", "query_string": {"size": "20", "seed": "5"}},
                 in_json(params={"size": 20}, seed=5), multipart(size="20", seed="5"))  # fmt: skip
        for form in forms:
            job = queue(http, path=NOISE, **form)
            assert (job["params"], job["seed"]) == ({"size": 20}, 5)
        problem(post(http, NOISE, **in_json(params={"size": 0})), 422, "invalid-parameter")

    def test_it_takes_no_picture(self, http: FlaskClient) -> None:
        for form in ({"data": RED}, parts(("image", RED)), in_json({"image": data_url(RED)})):
            problem(post(http, NOISE, **form), 422, "unknown-input")


class TestOptional:
    def etag(self, http: FlaskClient, **options: Any) -> str:
        """Find the ETag of a call: with `*` any is taken as known."""
        response = post(http, SHOWN, headers={"If-None-Match": "*"}, **options)
        assert response.status_code == 304, response.data
        return str(response.headers["ETag"])

    def test_a_bare_picture_fills_the_only_slot_or_none_does(self, http: FlaskClient) -> None:
        empty = [{"data": b""}, in_json(), in_json({}), in_json({"image": []}),
                 multipart(quality="90")]  # fmt: skip
        filled = [{"data": RED}, parts(("image", RED)), in_json({"image": data_url(RED)})]
        assert len({self.etag(http, **form) for form in empty}) == 1
        assert len({self.etag(http, **form) for form in filled}) == 1
        assert self.etag(http, **empty[0]) != self.etag(http, **filled[0])

    def test_a_form_field_where_no_file_was_chosen_is_empty(self, http: FlaskClient) -> None:
        nothing: dict[str, Any] = {
            "data": {"image": (io.BytesIO(b""), "")},
            "content_type": "multipart/form-data",
        }
        assert self.etag(http, **nothing) == self.etag(http, data=b"")
        problem(post(http, SHOWN, **parts(("image", b""))), 422)

    def test_a_bare_picture_fills_the_only_one_that_is_required(
        self, http: FlaskClient, own_registry: dict[str, Any], stores: Stores
    ) -> None:
        import dataclasses

        found = own_registry["collage"]
        slots = {name: found.inputs[name] for name in ("mask", "image", "wide_extra")}
        own_registry["collage"] = dataclasses.replace(found, inputs=slots)
        assert kept(stores, queue(http, path=COLLAGE, data=RED)) == {"image": RED}
        problem(post(http, COLLAGE, data=b""), 400, "empty-body")


class TestOpenApi:
    @pytest.fixture
    def bodies(self, app: flask.Flask) -> Any:
        paths = app.test_client().get("/openapi.json").get_json()["paths"]
        return {
            name: paths[f"/v1/techniques/{name}"]["post"]["requestBody"]
            for name in ("collage", "noise", "shown", "saliency")
        }

    def test_bodies_are_required_where_pictures_are(self, bodies: Any) -> None:
        required = {name: body["required"] for name, body in bodies.items()}
        assert required == {"collage": True, "noise": False, "shown": False, "saliency": True}
        raw = {name for name, body in bodies.items() if "image/png" in body["content"]}
        assert raw == {"shown", "saliency"}
        assert all(str(12 * 1024 * 1024) in body["description"] for body in bodies.values())

    def test_forms_say_which_parts_are_repeated(self, bodies: Any) -> None:
        form = bodies["collage"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == ["image", "style"]
        file = {"type": "string", "format": "binary"}
        assert form["properties"]["mask"] == file | {"description": "where it is shown"}
        assert form["properties"]["style"] == {
            "type": "array", "items": file, "minItems": 1, "maxItems": 3,
            "description": "what it is shown with",
        }  # fmt: skip
        assert bodies["noise"]["content"]["multipart/form-data"]["schema"]["required"] == []

    @pytest.mark.parametrize(
        ("name", "body", "fits"),
        [
            ("collage", {"inputs": {"image": "x", "style": "y"}}, True),
            ("collage", {"inputs": {"image": "x", "style": ["y", "z"], "mask": "m"}}, True),
            ("collage", {"inputs": {"image": "x", "style": ["y"], "wide_extra": []}}, True),
            ("collage", {"inputs": {"image": "x"}}, False),
            ("collage", {"inputs": {"image": "x", "style": []}}, False),
            ("collage", {"inputs": {"image": "x", "style": ["y"] * 4}}, False),
            ("collage", {"params": {}}, False),
            ("noise", {}, True),
            ("noise", {"params": {"size": 20}, "seed": 3}, True),
            ("shown", {}, True),
            ("shown", {"inputs": {}}, True),
            ("saliency", {"inputs": {"image": "x"}}, True),
            ("saliency", {}, False),
        ],
    )
    def test_json_bodies_are_described_as_they_are_taken(
        self, bodies: Any, name: str, body: Any, fits: bool
    ) -> None:
        schema = bodies[name]["content"]["application/json"]["schema"]
        Draft202012Validator.check_schema(schema)
        assert Draft202012Validator(schema).is_valid(body) == fits
