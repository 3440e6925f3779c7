"""The demonstration, as a newcomer runs it."""

from __future__ import annotations

import os
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

    pictures = sorted(out.iterdir())
    assert len(pictures) >= 4
    for path in pictures:
        assert min(decode(path.read_bytes()).shape[:2]) >= 64, path
        assert str(path) in said

    assert len(seen) > 8
    assert alive(list(seen.values())) == []
    assert [name for name in os.listdir(temporary) if name.startswith("lantern-")] == []
