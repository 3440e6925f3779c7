"""Build the TorchServe archives: `python -m handlers.archive [model_store]`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = "1.0"


def archives() -> dict[str, Path]:
    """Return the configuration of each archive, by the archive's name."""
    return {path.stem: path for path in sorted((HERE / "model-config").glob("*.yaml"))}


def build(store: Path) -> list[Path]:
    """Write every archive into `store`, unless it is newer than what it is made of.

    An archive holds the handler and its configuration. The library comes from the environment and
    the styles from the model store, so that neither needs the archive to be built again.
    """
    store.mkdir(parents=True, exist_ok=True)
    return [_build(name, config, store) for name, config in archives().items()]


def _build(name: str, config: Path, store: Path) -> Path:
    target = store / f"{name}.mar"
    sources = (config, HERE / "technique_handler.py")
    if target.is_file() and all(s.stat().st_mtime < target.stat().st_mtime for s in sources):
        return target
    # into a folder of its own and then renamed: two stacks may start at once
    scratch = store / f".{name}-{os.getpid()}"
    scratch.mkdir(exist_ok=True)
    try:
        package(name, HERE / "technique_handler.py", scratch, config=config)
        (scratch / f"{name}.mar").replace(target)
    finally:
        for leftover in scratch.iterdir():
            leftover.unlink()
        scratch.rmdir()
    return target


def package(name: str, handler: Path, folder: Path, *, config: Path | None = None) -> None:
    """Write the archive `<name>.mar` of a handler into a folder."""
    subprocess.run(
        [
            sys.executable, "-c",
            "from model_archiver.model_packaging import generate_model_archive as go; go()",
            "--model-name", name,
            "--version", VERSION,
            "--handler", str(handler),
            *(["--config-file", str(config)] if config else []),
            "--export-path", str(folder),
            "--force",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "model_store")
    for archive in build(folder):
        print(archive)
