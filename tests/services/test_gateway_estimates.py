"""What a job will take is told when it is made, and chooses its lane; too much is refused."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lantern.registry import Technique
from services.backend import TorchServeBackend, Unavailable
from services.clients import Stores
from services.gateway import techniques
from tests.films import film
from tests.services.gateway import encode, multipart, problem

EXCITE = "/v1/techniques/activation-maximization"
PAINT = "/v1/techniques/style-transfer"


def excite(http: FlaskClient, **params: Any) -> TestResponse:
    body = json.dumps({"params": {"size": 64, "steps": 10} | params})
    return http.post(EXCITE, data=body, content_type="application/json")


def test_a_job_without_pictures_says_what_it_will_take(http: FlaskClient) -> None:
    response = excite(http, objectives=["_blocks.2:0..3", "_blocks.2:7"])
    assert response.status_code == 202, response.get_data(as_text=True)
    job = response.get_json()
    assert job["estimate"]["passes"] == 2 * 10 * 5
    assert http.get(job["links"]["self"]).get_json()["estimate"] == job["estimate"]


def test_where_such_jobs_were_run_it_is_told_how_long_they_take(
    http: FlaskClient, stores: Stores
) -> None:
    first = excite(http, objectives=["_blocks.2:0"]).get_json()["estimate"]
    assert "seconds" not in first
    gigaflop = first["gigaflop"]
    note = functools.partial(
        stores.speeds.note,
        "activation-maximization fourier", "efficientnet-lite0", gigaflop=gigaflop,
    )  # fmt: skip
    note(seconds=20.0)
    assert excite(http, objectives=["_blocks.2:1"]).get_json()["estimate"]["seconds"] == 20.0
    note(seconds=10.0)  # the running mean of speeds follows
    then = excite(http, objectives=["_blocks.2:2"]).get_json()["estimate"]
    assert then["seconds"] == pytest.approx(20 / 1.3, abs=0.1)
    # of another method nothing is known
    other = excite(http, objectives=["_blocks.2:2"], method="pixels").get_json()
    assert "seconds" not in other["estimate"]


def test_the_estimate_grows_with_the_pictures(http: FlaskClient) -> None:
    def gigaflop(size: tuple[int, int]) -> float:
        form = multipart(
            ("image", encode("JPEG", size)), ("style", encode(size=(64, 64))), steps="9"
        )
        response = http.post(PAINT, **form)
        assert response.status_code == 202, response.get_data(as_text=True)
        return float(response.get_json()["estimate"]["gigaflop"])

    small, large, beyond = gigaflop((140, 140)), gigaflop((280, 280)), gigaflop((512, 512))
    assert large / small == pytest.approx(4, rel=0.1)
    assert beyond / small == pytest.approx((384 / 140) ** 2, rel=0.1), (
        "larger pictures are shrunk to 384 px"
    )


def test_more_than_one_job_may_take_is_refused(make_http: Callable[..., FlaskClient]) -> None:
    http = make_http(max_teraflop=0.01)
    assert excite(http, objectives=["_blocks.0:1"], steps=1).status_code == 202
    refused = problem(excite(http, objectives=["class:1"], steps=500), 422, "too-much-work")
    assert "at most 0.01" in refused["detail"]
    assert "lower the steps" in refused["detail"]
    listed = http.get("/v1/jobs").get_json()["jobs"]
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("objective", "code"),
    [
        ("class:1000", "invalid-parameter"),
        ("nowhere:1", "unknown-layer"),
        ("_blocks.0:16", "invalid-parameter"),
        ("_blocks:1", "invalid-parameter"),
        ("_blocks.0:1 and more", "invalid-parameter"),
    ],
)
def test_objectives_that_cannot_work_are_refused_at_once(
    objective: str, code: str, http: FlaskClient
) -> None:
    document = problem(excite(http, objectives=["class:1", objective]), 422, code)
    assert document["errors"][0]["pointer"] == "/params/objectives/1"
    assert http.get("/v1/jobs").get_json()["jobs"] == []


def post(http: FlaskClient, technique: str, params: dict[str, Any], *sides: int) -> TestResponse:
    """Post pictures of these sides, in the order of the technique's slots."""
    slots = ("image", "style")[: len(sides)]
    pictures = [(slot, encode("JPEG", (s, s))) for slot, s in zip(slots, sides, strict=True)]
    given = {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in params.items()
    }
    return http.post(f"/v1/techniques/{technique}", **multipart(*pictures, **given))


@pytest.mark.parametrize(
    ("technique", "params", "sides", "pointer"),
    [
        ("style-transfer", {"style_layers": ["nowhere"]}, (64, 64), "/params/style_layers"),
        ("style-transfer", {"style_layers": ["_fc"]}, (64, 64), "/params/style_layers"),
        ("texture-synthesis", {"layers": ["_fc"]}, (64,), "/params/layers"),
        ("deep-dream", {"layer": "nowhere"}, (64,), "/params/layer"),
    ],
)
def test_layers_that_cannot_work_are_refused_at_once(
    technique: str, params: dict[str, Any], sides: tuple[int, ...], pointer: str, http: FlaskClient
) -> None:
    document = problem(post(http, technique, params, *sides), 422)
    assert document["errors"][0]["pointer"] == pointer


def test_copying_has_its_price_too(http: FlaskClient) -> None:
    growth = {"method": "growth", "height": 2048, "width": 2048, "exemplar_size": 1024}
    problem(post(http, "texture-synthesis", growth | {"window": 41}, 500), 422, "too-much-work")
    modest = {"method": "quilting", "height": 128, "width": 128}
    job = post(http, "texture-synthesis", modest, 64).get_json()
    assert 0 < job["estimate"]["gigaflop"] < 10


def test_more_memory_than_a_job_may_take_is_refused(make_http: Callable[..., FlaskClient]) -> None:
    http = make_http(max_megabytes=300)
    modest = excite(http, objectives=["_blocks.0:1"], steps=1, size=128)
    assert modest.get_json()["estimate"]["megabytes"] < 300
    many = excite(http, objectives=["_conv_head:0..127"], steps=1, size=256)
    refused = problem(many, 422, "too-much-work")
    assert "at most 300" in refused["detail"]


# --- Lanes: TorchServe does not listen, so that light calls become jobs too, but quick ones


def lane(
    http: FlaskClient,
    stores: Stores,
    technique: str,
    data: bytes,
    accept: str = "application/json",
    prefer: str = "",
    **params: Any,
) -> str:
    given = {name: str(value) for name, value in params.items()}
    # a document shows facts: the evidence counts
    response = http.post(
        f"/v1/techniques/{technique}", headers={"Accept": accept, "Prefer": prefer},
        **multipart(("image", data), **given),
    )  # fmt: skip
    assert response.status_code == 202, response.get_data(as_text=True)
    job = stores.jobs.get(response.get_json()["id"])
    assert job is not None
    return job.lane


HEAVY: list[tuple[str, dict[str, Any]]] = [
    ("rise", {"masks": 8000}),
    ("occlusion", {"patch": 8, "stride": 2}),
    ("integrated-gradients", {"steps": 400, "most_steps": 1600}),
    ("integrated-gradients", {"gap": 1e-6, "most_steps": 1600}),
    ("saliency", {"method": "smooth-grad", "samples": 200, "sanity": True, "evidence": 100}),
    ("compare-methods", {"sanity": True}),
    ("rise", {"model": "resnet50"}),
]


@pytest.mark.parametrize(("technique", "params"), HEAVY)
def test_a_heavy_interactive_call_is_a_long_job(
    technique: str,
    params: dict[str, Any],
    http: FlaskClient,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TorchServeBackend, "perform", unwanted)
    monkeypatch.setattr(techniques, "_check_model", lambda *_: None)  # weights are not here
    assert lane(http, stores, technique, encode("JPEG"), **params) == "jobs"


def unwanted(*_: object) -> None:
    raise AssertionError("the engine was asked")


EXPLAIN = ["rise", "occlusion", "integrated-gradients", "saliency", "grad-cam", "compare-methods"]


@pytest.mark.parametrize("technique", EXPLAIN)
def test_as_it_is_by_default_it_is_answered_at_once(
    technique: str, http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch_engine(monkeypatch)
    post_picture(http, technique)
    assert asked == [technique]


@pytest.mark.parametrize("technique", EXPLAIN)
def test_a_quick_call_that_becomes_a_job_holds_up_others_for_seconds_alone(
    technique: str, http: FlaskClient, stores: Stores
) -> None:
    takes_long = technique in ("rise", "compare-methods")
    expected = "jobs" if takes_long else "fast"
    assert lane(http, stores, technique, encode("JPEG")) == expected


def test_evidence_that_nobody_reads_does_not_count_for_the_engine(
    http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch_engine(monkeypatch)
    given = {"evidence": "100", "sanity": "true", "samples": "200", "method": "smooth-grad"}
    post_picture(http, "saliency", "application/json", **given)
    assert asked == []
    post_picture(http, "saliency", "image/png", **given)
    assert asked == ["saliency"]


@pytest.mark.parametrize("prefer", ["respond-async", ""])
def test_evidence_counts_for_a_job_whatever_its_caller_accepts(
    http: FlaskClient, stores: Stores, prefer: str
) -> None:
    given: dict[str, Any] = {"evidence": 100, "sanity": True}
    data = encode("JPEG")
    assert lane(http, stores, "grad-cam", data, "image/png", prefer) == "fast"
    assert lane(http, stores, "grad-cam", data, "image/png", prefer, **given) == "jobs"


def watch_engine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the techniques that the engine is asked for from now on, in vain."""
    asked = list[str]()

    def perform(_: object, technique: Technique, *__: object, **___: object) -> None:
        asked.append(technique.name)
        raise Unavailable

    monkeypatch.setattr(TorchServeBackend, "perform", perform)
    return asked


def post_picture(
    http: FlaskClient, technique: str, accept: str = "application/json", **given: str
) -> None:
    sent = multipart(("image", encode("JPEG")), **given)
    response = http.post(f"/v1/techniques/{technique}", headers={"Accept": accept}, **sent)
    assert response.status_code == 202, response.get_data(as_text=True)


def flat(side: int) -> bytes:
    """Return a picture of a few kilobytes."""
    out = io.BytesIO()
    PIL.Image.new("RGB", (side, side), "teal").save(out, "JPEG")
    return out.getvalue()


def test_a_large_painting_is_a_long_job(
    http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = flat(1024), flat(4096)
    assert lane(http, stores, "fast-style", large) == "fast", "it is shrunk to 1024 px"
    assert lane(http, stores, "fast-style", large, size=2048, color="histogram") == "fast"
    assert lane(http, stores, "fast-style", small, size=4096, style_scale=0.5) == "fast"
    monkeypatch.setattr(TorchServeBackend, "perform", unwanted)
    assert lane(http, stores, "fast-style", large, size=4096) == "jobs"
    assert lane(http, stores, "fast-style", small, style_scale=0.25) == "jobs"


def test_what_cannot_be_painted_is_refused_at_once(
    http: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchServeBackend, "perform", unwanted)
    given = multipart(("image", flat(1100)), size="4096", style_scale="0.25")
    told = problem(http.post("/v1/techniques/fast-style", **given), 422, "invalid-parameter")
    assert told["errors"][0]["pointer"] == "/params/style_scale"


def test_the_estimate_of_a_film_counts_its_frames(http: FlaskClient, stores: Stores) -> None:
    def passes(count: int) -> object:
        sent = multipart(("image", film(count=count)))
        response = http.post("/v1/techniques/fast-style", **sent)
        return response.get_json()["estimate"]["passes"]

    assert (passes(3), passes(7)) == (3, 7)


def test_a_film_is_a_long_job(
    http: FlaskClient, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lane(http, stores, "fast-style", encode("JPEG")) == "fast"
    monkeypatch.setattr(TorchServeBackend, "perform", unwanted)
    assert lane(http, stores, "fast-style", film()) == "jobs"


def test_where_machines_are_quicker_more_is_quick(
    make_http: Callable[..., FlaskClient], stores: Stores
) -> None:
    http = make_http(max_interactive_teraflop=50, max_fast_teraflop=50)
    more: dict[str, Any] = {"masks": 8000}
    assert lane(http, stores, "rise", encode("JPEG"), **more) == "fast"


def test_what_was_taken_before_is_not_too_much(http: FlaskClient, stores: Stores) -> None:
    given: dict[str, Any] = {"patch": 8, "stride": 2, "sanity": True, "evidence": 100}
    assert lane(http, stores, "occlusion", encode("JPEG"), **given) == "jobs"
