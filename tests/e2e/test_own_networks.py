"""A caller's own network: served by TorchServe and by workers without a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from urllib3.filepost import encode_multipart_formdata

from lantern.brought import Brought, build
from tests.e2e.pictures import decode
from tests.e2e.running import Running, problem

pytestmark = pytest.mark.e2e

SAID: dict[str, Any] = {
    "architecture": "squeezenet1_1", "labels": ["crow", "duck", "owl"], "input_size": 64,
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return build(Brought(**SAID))


@pytest.fixture(scope="module")
def brought(stack: Running, network: nn.Module, tiny: bytes) -> Iterator[str]:
    weights = safetensors.torch.save(network.state_dict())
    form: dict[str, Any] = {
        "model": json.dumps(SAID),
        "weights": ("own.safetensors", weights),
    }
    body, kind = encode_multipart_formdata(form)
    response = stack.request("POST", "/v1/models", body, content_type=kind)
    assert response.status == 201, response.data
    name = json.loads(response.data)["name"]
    yield name
    assert stack.request("DELETE", f"/v1/models/{name}").status == 204
    gone = stack.raw("classify", tiny, f"model={name}")
    assert problem(gone, 422, "unknown-model")


def test_torchserve_gives_its_answers(
    stack: Running, brought: str, network: nn.Module, tiny: bytes
) -> None:
    response = stack.raw("classify", tiny, f"model={brought}&fit=squash", accept="application/json")
    assert response.status == 200, response.data
    rows = json.loads(response.data)["artifacts"][0]["data"]
    assert {row["label"] for row in rows} == set(SAID["labels"])
    assert sum(row["probability"] for row in rows) == pytest.approx(1, abs=1e-3)
    map_ = stack.raw("grad-cam", tiny, f"model={brought}", accept="image/png")
    assert decode(map_.data).shape == decode(tiny).shape


def test_a_worker_dreams_with_it(stack: Running, brought: str, tiny: bytes) -> None:
    params: dict[str, Any] = {"model": brought, "steps": 4, "octaves": 1}
    final = stack.ended(stack.submit("deep-dream", {"image": tiny}, **params))
    assert final["status"] == "succeeded", final
    assert final["result"]["facts"]["model"]["name"] == brought
    picture = stack.request("GET", final["links"]["result"])
    assert np.abs(decode(picture.data).astype(int) - decode(tiny)).mean() > 1
