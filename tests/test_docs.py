"""The documentation says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lantern
from services.docs import write_pages
from services.settings import ROOT

README = (ROOT / "README.md").read_text()


def test_generated_pages_are_fresh(tmp_path: Path) -> None:
    for page in write_pages(tmp_path):
        name = page.relative_to(tmp_path)
        kept = ROOT / "docs" / name
        assert kept.is_file(), f"{name} is missing; run `make docs`"
        assert kept.read_text() == page.read_text(), f"{name} is stale; run `make docs`"


def test_there_is_no_page_of_a_technique_that_is_gone(tmp_path: Path) -> None:
    write_pages(tmp_path)
    kept = {path.name for path in (ROOT / "docs" / "techniques").iterdir()}
    assert kept == {path.name for path in (tmp_path / "techniques").iterdir()}


def test_links_and_paths_of_the_documents_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
    for name in re.findall(r"^\| `([\w./-]+)`", README, re.MULTILINE):
        assert (ROOT / name).exists(), f"the README's map names {name}"


def test_the_changelog_has_the_version() -> None:
    assert f"## {lantern.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{lantern.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_readmes_words_are_make_targets() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", README)) <= targets


def test_the_readmes_python_runs(tmp_path: Path, photo_file: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "photo.jpg").write_bytes(photo_file.read_bytes())
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "cat" in ran.stdout
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    from lantern import samples
    from lantern.image import Image

    path = tmp_path / "sample.jpg"
    image = Image.decode(samples.photographs()["cat"].read_bytes())
    path.write_bytes(image.encode("image/jpeg"))
    return path
