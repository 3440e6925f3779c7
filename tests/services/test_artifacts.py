"""Results of every kind on their way: made by a worker, kept once, handed out in any form."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import safetensors.torch
from flask.testing import FlaskClient

from lantern.call import Studio
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.clients import Stores
from services.settings import Settings
from services.worker.desk import Desk
from services.worker.tasks import work
from tests.services.gateway import PAINT, post, problem, queue, start

pytestmark = pytest.mark.usefixtures("invented")

ALBUM = "/v1/techniques/album"
JPEG, PNG, WEBP, GIF = (f"image/{name}" for name in ("jpeg", "png", "webp", "gif"))
JSON, NPZ = "application/json", "application/x-npz"
SAFETENSORS = "application/vnd.safetensors"

Make = Callable[[str], Any]


@pytest.fixture
def make(http: FlaskClient, stores: Stores, settings: Settings) -> Make:
    """Let a worker make an album with a certain artifact first; return its job."""
    studio = Studio(Zoo(downloads=False), StyleLibrary(settings.styles_path))

    def make(first: str) -> Any:
        job = queue(http, path=ALBUM, data=b"", query_string={"first": first})
        work(Desk(settings, stores, studio), start(stores, job), "jobs")
        return http.get(job["links"]["self"]).get_json()

    return make


def frames(body: bytes) -> list[tuple[int, int]]:
    """Return the time in ms and the level of the right half of each frame."""
    with PIL.Image.open(io.BytesIO(body)) as opened:
        read = [
            (np.asarray(frame.convert("RGB")), frame.info["duration"])
            for frame in PIL.ImageSequence.Iterator(opened)
        ]
    return [(round(time), round(float(pixels[:, 18:].mean()))) for pixels, time in read]


@pytest.mark.parametrize("first", ["grid", "animation", "weights"])
def test_the_job_names_every_artifact(first: str, make: Make, http: FlaskClient) -> None:
    job = make(first)
    assert (job["status"], job["error"]) == ("succeeded", None)
    listed = job["result"]["artifacts"]
    assert listed[0]["kind"] == first
    assert {(entry["kind"], entry["media_type"]) for entry in listed} == {
        ("grid", JPEG), ("animation", WEBP), ("weights", SAFETENSORS)
    }  # fmt: skip
    for entry in listed:
        response = http.get(entry["url"])
        assert (response.status_code, response.content_type) == (200, entry["media_type"])
        assert http.head(entry["url"]).headers["Content-Length"] == str(len(response.data))
    asked = http.get(job["links"]["result"], headers={"Accept": JSON})
    assert asked.get_json() == job["result"]


@pytest.mark.parametrize("accept", ["*/*", WEBP, "image/*", f"{WEBP}, {GIF};q=0.5", ""])
def test_an_animation_is_a_moving_webp(accept: str, make: Make, http: FlaskClient) -> None:
    job = make("animation")
    response = http.get(job["links"]["result"], headers={"Accept": accept})
    assert response.content_type == WEBP
    shown = frames(response.data)
    assert [time for time, _ in shown] == [80, 80, 80]
    assert np.allclose([level for _, level in shown], [26, 128, 230], atol=3)


@pytest.mark.parametrize("accept", [GIF, f"{GIF}, {WEBP};q=0.5", f"image/*, {WEBP};q=0"])
def test_or_a_gif_with_all_its_frames(accept: str, make: Make, http: FlaskClient) -> None:
    job = make("animation")
    for url in (job["links"]["result"], job["result"]["artifacts"][0]["url"]):
        response = http.get(url, headers={"Accept": accept})
        assert response.content_type == GIF
        shown = frames(response.data)
        assert [time for time, _ in shown] == [80, 80, 80]
        assert np.allclose([level for _, level in shown], [26, 128, 230], atol=4)


def test_forms_of_an_animation_have_tags_of_their_own(make: Make, http: FlaskClient) -> None:
    url = make("animation")["links"]["result"]
    tags = [http.get(url, headers={"Accept": form}).headers["ETag"] for form in (GIF, WEBP)]
    assert tags[0] != tags[1]
    again = http.get(url, headers={"Accept": GIF, "If-None-Match": tags[0]})
    assert again.status_code == 304


@pytest.mark.parametrize("accept", [JPEG, PNG, f"{JPEG}, {PNG}", SAFETENSORS])
def test_an_animation_is_no_still(accept: str, make: Make, http: FlaskClient) -> None:
    job = make("animation")
    document = problem(http.get(job["links"]["result"], headers={"Accept": accept}), 406)
    assert WEBP in document["detail"]
    assert GIF in document["detail"]


@pytest.mark.parametrize("accept", ["*/*", SAFETENSORS, "application/*", f"{PNG}, {SAFETENSORS}"])
def test_weights_are_their_file(accept: str, make: Make, http: FlaskClient) -> None:
    job = make("weights")
    for url in (job["links"]["result"], job["result"]["artifacts"][0]["url"]):
        response = http.get(url, headers={"Accept": accept})
        assert response.content_type == SAFETENSORS
        tensor = safetensors.torch.load(response.data)["a.b"]
        assert tensor.shape == (3, 24, 32)
        assert tensor[2, 0, 31] == pytest.approx(0.9)
    problem(http.get(job["links"]["result"], headers={"Accept": "image/*"}), 406)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_grid_is_a_picture(kind: str, make: Make, http: FlaskClient) -> None:
    response = http.get(
        make("grid")["links"]["result"], headers={"Accept": f"image/{kind.lower()}"}
    )
    with PIL.Image.open(io.BytesIO(response.data)) as opened:
        assert opened.format == kind
        assert opened.width == 32 + 2 + 32
        assert opened.height > 24 + 2 + 24


def test_raw_arrays_have_what_is_an_array(make: Make, http: FlaskClient) -> None:
    response = http.get(make("weights")["links"]["result"], headers={"Accept": NPZ})
    with np.load(io.BytesIO(response.data)) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "grid": (3, 3, 24, 32), "animation": (3, 3, 24, 32)
        }  # fmt: skip


def test_a_result_from_memory_has_every_kind(make: Make, http: FlaskClient) -> None:
    make("animation")
    again = queue(http, path=ALBUM, data=b"", query_string={"first": "animation"})
    assert (again["status"], again["result"]["facts"]["cached"]) == ("succeeded", True)
    response = http.get(again["links"]["result"], headers={"Accept": GIF})
    assert len(frames(response.data)) == 3


def test_a_gif_may_be_asked_for_and_sent(http: FlaskClient) -> None:
    out = io.BytesIO()
    PIL.Image.new("RGB", (32, 32)).save(out, "GIF")
    assert post(http, headers={"Accept": GIF}).status_code == 202
    for kind in (GIF, PNG):  # what it is counts, not what it is called
        assert post(http, data=out.getvalue(), content_type=kind).status_code == 202
    stored = post(http, "/v1/files", data=out.getvalue(), content_type=GIF)
    assert stored.status_code == 201


def test_an_animation_is_painted_by_a_job(http: FlaskClient) -> None:
    out = io.BytesIO()
    frames = [PIL.Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    response = post(http, PAINT, data=out.getvalue(), content_type=GIF)
    assert response.status_code == 202
    assert response.get_json()["technique"] == "fast-style"


def test_the_document_of_the_interface_names_every_form(http: FlaskClient) -> None:
    paths = http.get("/openapi.json").get_json()["paths"]
    for path, method in [
        (ALBUM, "post"), ("/v1/jobs/{job_id}/result", "get"),
        ("/v1/jobs/{job_id}/artifacts/{name}", "get"),
    ]:  # fmt: skip
        content = paths[path][method]["responses"]["200"]["content"]
        assert content.keys() == {JPEG, PNG, WEBP, GIF, JSON, NPZ, SAFETENSORS}
    assert GIF in paths["/v1/files"]["post"]["requestBody"]["content"]
