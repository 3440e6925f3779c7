"""Interactive techniques through gateway and TorchServe."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from handlers.technique_handler import MOST_ANSWER
from lantern.call import Call, Studio
from lantern.image import Image
from lantern.run import run
from lantern.styles.library import StyleLibrary
from lantern.zoo import Zoo
from services.settings import Settings
from tests.e2e.pictures import decode, encode, kind_of, noise
from tests.e2e.running import Response, Running, problem

pytestmark = pytest.mark.e2e

CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat", "lynx"}


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return Zoo(downloads=False)


def document(response: Response) -> Any:
    assert response.status == 200, response.data
    return json.loads(response.data)


def arrays(response: Response) -> Mapping[str, Any]:
    assert response.status == 200, response.data
    with np.load(io.BytesIO(response.data)) as found:
        return dict(found)


class TestFastStyle:
    def test_the_result_is_a_painted_picture_of_the_right_size(
        self, stack: Running, coffee: bytes
    ) -> None:
        response = stack.raw("fast-style", coffee, "size=256")
        assert response.status == 200
        assert response.headers["Content-Type"] == "image/jpeg"
        painted, photo = decode(response.data), decode(coffee)
        assert photo.shape == (400, 600, 3)
        assert painted.shape == (171, 256, 3)
        shrunk = Image.from_uint8(photo).fit(256).to_uint8()
        assert np.abs(painted.astype(int) - shrunk).mean() > 10

    @pytest.mark.parametrize("size", [(64, 64), (97, 65), (16, 128), (300, 200)])
    def test_every_size_stays_as_it_is(self, stack: Running, size: tuple[int, int]) -> None:
        response = stack.raw("fast-style", encode(noise(*size)), "size=512")
        assert response.status == 200
        assert decode(response.data).shape == (size[1], size[0], 3)

    def test_strength_zero_gives_the_photograph_back(self, stack: Running, tiny: bytes) -> None:
        response = stack.raw("fast-style", tiny, "strength=0", accept="image/png")
        assert np.array_equal(decode(response.data), decode(tiny))

    def test_strength_leads_from_one_to_the_other(self, stack: Running, tiny: bytes) -> None:
        def distance(strength: float) -> float:
            response = stack.raw("fast-style", tiny, f"strength={strength}", accept="image/png")
            return float(np.abs(decode(response.data).astype(int) - decode(tiny)).mean())

        assert 0 == distance(0) < distance(0.3) < distance(0.7) < distance(1)

    def test_transparency_is_carried_through(self, stack: Running) -> None:
        alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
        picture = encode(np.dstack([noise(), alpha]))
        response = stack.raw("fast-style", picture)
        assert response.headers["Content-Type"] == "image/png"
        painted = Image.decode(response.data)
        assert painted.alpha is not None
        assert np.array_equal(painted.alpha.mul(255).round().numpy(), alpha)

    # OpenVINO traces the network in a way that torch would like to retire
    @pytest.mark.filterwarnings("ignore:`torch.jit")
    def test_torchserve_answers_as_this_process_does(self, stack: Running, tiny: bytes) -> None:
        studio = Studio(Zoo(downloads=False), StyleLibrary(Settings().styles_path))
        answer = studio.perform(
            Call("fast-style", {"image": tiny}, {"style": "starry-night"}, accept=["image/png"])
        )
        response = stack.raw("fast-style", tiny, accept="image/png")
        difference = decode(response.data).astype(int) - decode(answer.body)
        assert np.abs(difference).max() <= 1


class TestForms:
    def test_every_form_of_input_gives_the_same_bytes(self, stack: Running, tiny: bytes) -> None:
        uploaded = stack.request("POST", "/v1/files", tiny, content_type="image/png")
        assert uploaded.status == 201
        file = json.loads(uploaded.data)["id"]
        url = "data:image/png;base64," + base64.b64encode(tiny).decode()
        params = {"strength": 0.5, "quality": 80}

        def posted(picture: str) -> Response:
            body = json.dumps({"inputs": {"image": picture}, "params": params}).encode()
            path = "/v1/techniques/fast-style"
            return stack.request("POST", path, body, content_type="application/json")

        answers = [
            stack.raw("fast-style", tiny, "strength=0.5&quality=80", content_type="image/png"),
            stack.form("fast-style", {"image": tiny}, **params),
            stack.form("fast-style", {"image": tiny}, params=json.dumps(params)),
            posted(url),
            posted(file),
        ]
        assert [answer.status for answer in answers] == [200] * 5
        assert len({answer.data for answer in answers}) == 1
        assert len({answer.headers["ETag"] for answer in answers}) == 1

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [("image/jpeg", "JPEG"), ("image/png", "PNG"), ("image/webp", "WEBP"),
         ("image/avif,image/webp,*/*;q=0.8", "WEBP"), ("*/*", "JPEG"), (None, "JPEG")],
    )  # fmt: skip
    def test_the_picture_comes_in_the_form_asked_for(
        self, stack: Running, tiny: bytes, accept: str | None, kind: str
    ) -> None:
        response = stack.raw("fast-style", tiny, accept=accept)
        assert response.status == 200
        assert response.headers["Content-Type"] == f"image/{kind.lower()}"
        assert kind_of(response.data) == kind

    def test_the_document_holds_the_picture_and_its_facts(
        self, stack: Running, tiny: bytes
    ) -> None:
        response = stack.raw("fast-style", tiny, "strength=0.5", accept="application/json")
        assert response.headers["Content-Type"] == "application/json"
        found = document(response)
        assert found["technique"] == "fast-style"
        assert (found["params"]["strength"], found["params"]["style"]) == (0.5, "starry-night")
        assert {"lantern", "torch", "python"} <= found["facts"]["versions"].keys()
        (artifact,) = found["artifacts"]
        head, _, data = artifact["data"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert decode(base64.b64decode(data)).shape == (48, 64, 3)

    def test_the_arrays_are_the_picture_in_floats(self, stack: Running, tiny: bytes) -> None:
        response = stack.raw("fast-style", tiny, "strength=0", accept="application/x-npz")
        assert response.headers["Content-Type"] == "application/x-npz"
        picture = arrays(response)["picture"]
        assert (picture.dtype, picture.shape) == (np.float32, (3, 48, 64))
        assert np.allclose(picture.transpose(1, 2, 0) * 255, decode(tiny), atol=1e-3)


class TestHeaders:
    def test_every_answer_says_where_its_time_went(self, stack: Running, tiny: bytes) -> None:
        response = stack.raw("fast-style", tiny)
        parts = re.findall(r"(\w+);dur=([0-9.]+)", response.headers["Server-Timing"])
        assert {"queue", "model", "encode"} <= {name for name, _ in parts}
        assert 0 < sum(float(milliseconds) for _, milliseconds in parts) < 20_000

    def test_every_answer_has_a_request_id(self, stack: Running, tiny: bytes) -> None:
        own = stack.raw("fast-style", tiny).headers["X-Request-Id"]
        given = stack.raw("fast-style", tiny, x_request_id="trace-7").headers["X-Request-Id"]
        assert own != given == "trace-7"

    def test_who_has_the_answer_gets_304(self, stack: Running, tiny: bytes) -> None:
        first = stack.raw("fast-style", tiny)
        again = stack.raw("fast-style", tiny, if_none_match=first.headers["ETag"])
        assert (again.status, again.data) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        other = stack.raw("fast-style", tiny, "strength=0.5", if_none_match=first.headers["ETag"])
        assert other.status == 200

    def test_the_same_call_gives_the_same_bytes(self, stack: Running, tiny: bytes) -> None:
        for technique in ("fast-style", "grad-cam", "classify"):
            first, again = stack.raw(technique, tiny), stack.raw(technique, tiny)
            assert first.headers["ETag"] == again.headers["ETag"]
            if technique != "classify":  # its document also tells how long it took
                assert first.data == again.data

    def test_an_answer_is_for_its_caller_alone(self, stack: Running, tiny: bytes) -> None:
        headers = stack.raw("fast-style", tiny).headers
        assert headers["Cache-Control"].startswith("private")
        assert headers["X-Content-Type-Options"] == "nosniff"

    def test_head_is_get_without_a_body(self, stack: Running) -> None:
        for path in ("/v1/techniques", "/v1/techniques/grad-cam", "/", "/healthz/ready"):
            head, get = stack.request("HEAD", path), stack.get(path)
            assert (head.status, head.data) == (get.status, b"")
            assert head.headers["Content-Length"] == get.headers["Content-Length"]
            assert head.headers["Content-Type"] == get.headers["Content-Type"]

    def test_options_name_the_methods(self, stack: Running) -> None:
        response = stack.request("OPTIONS", "/v1/techniques/grad-cam")
        assert response.status == 200
        assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


class TestClassify:
    def test_a_cat_is_a_cat(self, stack: Running, cat: bytes) -> None:
        found = document(stack.raw("classify", cat, "top=5"))
        (table,) = found["artifacts"]
        rows = table["data"]
        assert len(rows) == 5
        assert rows[0]["label"] in CATS
        probabilities = [row["probability"] for row in rows]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1

    def test_its_numbers_come_as_arrays(self, stack: Running, cat: bytes) -> None:
        rows = document(stack.raw("classify", cat))["artifacts"][0]["data"]
        columns = arrays(stack.raw("classify", cat, accept="application/x-npz"))
        assert columns["classes.class"].tolist() == [row["class"] for row in rows]

    def test_it_is_no_picture(self, stack: Running, tiny: bytes) -> None:
        problem(stack.raw("classify", tiny, accept="image/png"), 406, "not-acceptable")


class TestAttribution:
    @pytest.mark.parametrize(
        ("technique", "query", "params"),
        [
            ("grad-cam", "", {}),
            ("grad-cam", "target=285&relu=false&layer=_blocks.10",
             {"target": 285, "relu": False, "layer": "_blocks.10"}),
            ("saliency", "reduce=signed&fit=crop", {"reduce": "signed", "fit": "crop"}),
        ],
    )  # fmt: skip
    def test_the_map_is_the_librarys(
        self, stack: Running, cat: bytes, zoo: Zoo, technique: str, query: str, params: Any
    ) -> None:
        served = arrays(stack.raw(technique, cat, query, accept="application/x-npz"))["heatmap"]
        image = Image.decode(cat)
        result = run(technique, {"image": image}, params, model=zoo.load())
        own = result.principal.arrays()["heatmap"]
        assert served.dtype == np.float32
        assert served.shape == (image.height, image.width) == own.shape
        scale = np.abs(own).max()
        assert scale > 0
        assert np.abs(served - own).max() <= 1e-5 * max(1.0, scale)

    def test_the_cat_is_where_the_cat_is(self, stack: Running, cat: bytes) -> None:
        served = arrays(stack.raw("grad-cam", cat, accept="application/x-npz"))["heatmap"]
        height, width = served.shape
        middle = served[height // 5 : -height // 5, width // 5 : -width // 5]
        assert middle.mean() > served.mean()

    @pytest.mark.parametrize("technique", ["grad-cam", "saliency"])
    def test_the_picture_shows_the_map_over_the_photograph(
        self, stack: Running, small_cat: bytes, technique: str
    ) -> None:
        over = decode(stack.raw(technique, small_cat, accept="image/png").data)
        alone = decode(stack.raw(technique, small_cat, "overlay=false", accept="image/png").data)
        nothing = decode(stack.raw(technique, small_cat, "opacity=0", accept="image/png").data)
        photo = decode(small_cat)
        assert over.shape == alone.shape == photo.shape
        assert np.array_equal(nothing, photo)
        assert np.abs(over.astype(int) - photo).mean() > 1
        assert np.abs(over.astype(int) - alone).mean() > 1

    def test_the_facts_say_what_was_explained(self, stack: Running, small_cat: bytes) -> None:
        facts = document(stack.raw("grad-cam", small_cat, accept="application/json"))["facts"]
        assert facts["class"]["label"] in CATS
        assert facts["layer"] == "_conv_head"
        assert facts["grid"] == [7, 7]
        assert facts["model"]["name"] == "efficientnet-lite0"
        assert re.fullmatch(r"[0-9a-f]{64}", facts["model"]["weights_sha256"])


class TestLargeAnswers:
    def test_one_that_the_engine_cannot_send_is_given_by_a_job(self, stack: Running) -> None:
        photo = encode(noise(1400, 1400), "JPEG")
        before = engine_workers(stack)
        response = stack.raw("guided-backprop", photo, accept="application/x-npz")
        assert response.status == 202
        job = stack.ended(json.loads(response.data))
        assert job["status"] == "succeeded"
        found = arrays(stack.get(job["links"]["result"], accept="application/x-npz"))
        assert sum(array.nbytes for array in found.values()) > MOST_ANSWER
        assert engine_workers(stack) == before


def engine_workers(stack: Running) -> set[int]:
    """Return the ids of the processes that serve TorchServe's archives."""
    return {process.pid for process in stack.part("torchserve").children(recursive=True)}
