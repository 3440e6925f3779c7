"""The README's commands do what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import safetensors.torch

from lantern.brought import Brought, build
from services.settings import ROOT
from tests.e2e.pictures import kind_of
from tests.e2e.running import Running

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here"),
]

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_there_are_some() -> None:
    assert sum(block.count("curl ") for block in BLOCKS) >= 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(
    stack: Running, tmp_path: Path, small_cat: bytes, coffee: bytes, number: int
) -> None:
    (tmp_path / "photo.jpg").write_bytes(small_cat)
    (tmp_path / "painting.jpg").write_bytes(coffee)
    own = build(Brought(architecture="squeezenet1_1", classes=2))
    safetensors.torch.save_file(own.state_dict(), tmp_path / "weights.safetensors")
    block = BLOCKS[number].replace("127.0.0.1:8000", f"127.0.0.1:{stack.port}")
    script = "set -eu\n" + block.replace("curl ", "curl --silent --show-error --fail ")
    ran = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for path in tmp_path.iterdir():
        if path.suffix in (".jpg", ".png"):
            assert kind_of(path.read_bytes())
        elif path.suffix == ".json":
            job = json.loads(path.read_text())
            stack.request("POST", job["links"]["cancel"])
            stack.ended(job)
