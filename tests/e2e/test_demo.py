"""The demonstration, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.settings import ROOT
from tests.e2e.pictures import decode
from tests.e2e.running import alive, environment

pytestmark = pytest.mark.e2e

ARTEFACTS = {
    "coffee-starry-night-512.jpg", "coffee-starry-night-256.jpg", "cat-grad-cam.jpg",
    "coffee-repainted.png",
}  # fmt: skip

STARTS = {".jpg": b"\xff\xd8", ".png": b"\x89PNG"}


def test_the_demonstration_leaves_pictures_and_nothing_else(tmp_path: Path) -> None:
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    settings = {"LANTERN_RUN_DIR": str(tmp_path / "run" / "8000"), "TMPDIR": str(temporary)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "demo", "--out", str(out)],
            cwd=ROOT, env=environment(**settings), stdout=log, stderr=log,
        )  # fmt: skip
    seen: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        seen |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
        time.sleep(0.2)
    said = (tmp_path / "log").read_text()
    assert process.wait(1) == 0, said
    assert "Traceback" not in said
    assert "everything is stopped" in said
    for size in (512, 256):
        assert re.search(rf"\b{size} px: \d+ ms  \(queue;dur=.*model;dur=.*\)", said), said
    assert re.search(r"\[#+\.*\] \d+/\d+ loss \d", said), said
    assert "style-transfer: a job" in said

    pictures = sorted(out.iterdir())
    assert {path.name for path in pictures} == ARTEFACTS
    for path in pictures:
        data = path.read_bytes()
        assert min(decode(data).shape[:2]) >= 64, path
        assert data.startswith(STARTS[path.suffix]), path
        assert str(path) in said

    assert len(seen) > 8
    assert alive(list(seen.values())) == []
    assert [name for name in os.listdir(temporary) if name.startswith("lantern-")] == []
