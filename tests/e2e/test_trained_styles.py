"""A style that a job has trained: listed, and served by TorchServe without a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.pictures import decode
from tests.e2e.running import Running, problem

pytestmark = pytest.mark.e2e

SHORT = {"steps": 4, "batch": 1, "crop": 64, "style_size": 64, "title": "Wind"}


@pytest.fixture(scope="module", params=["quick", "thorough"])
def style(request: pytest.FixtureRequest, stack: Running, tiny: bytes) -> Iterator[str]:
    job = stack.ended(stack.submit("train-style", {"style": tiny}, way=request.param, **SHORT))
    assert job["status"] == "succeeded", job
    name = "sty_" + job["id"].removeprefix("job_")
    yield name
    assert stack.request("DELETE", f"/v1/styles/{name}").status == 204
    assert problem(stack.raw("fast-style", tiny, f"style={name}"), 422, "unknown-style")


def test_it_is_listed_and_served(stack: Running, style: str, tiny: bytes) -> None:
    styles = json.loads(stack.request("GET", "/v1/styles").data)["styles"]
    (found,) = [each for each in styles if each["name"] == style]
    assert found["title"] == "Wind"
    assert stack.request("GET", found["thumbnail"]).data[:2] == b"\xff\xd8"
    painted = stack.raw("fast-style", tiny, f"style={style}", accept="image/png")
    assert painted.status == 200, painted.data
    assert decode(painted.data).shape == decode(tiny).shape
    if found["blends"]:
        mixed = stack.raw("fast-style", tiny, f"style={style}:0.5,starry-night:0.5")
        assert mixed.status == 200, mixed.data
        assert mixed.data != painted.data
