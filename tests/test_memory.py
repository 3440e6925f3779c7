"""What a run needs of the memory does not grow with how much it goes through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.films import film

# Prints the most memory the process has had of its own, MB, after each number of masks. Pages of
# libraries are not counted: how many of them are there depends on what the system has cached.
RISE = """
import sys, torch
from pathlib import Path
from lantern.image import Image
from lantern.run import run
from lantern.records import DEFAULT_MODEL
from lantern.zoo import Zoo
torch.set_num_threads(1)
model = Zoo(downloads=False).load(DEFAULT_MODEL)
image = Image(torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0)))
for masks in map(int, sys.argv[1:]):
    given = {"masks": masks, "error": 1e-6, "evidence": 0}
    assert run("rise", {"image": image}, given, model=model).facts["masks"] == masks
    status = Path("/proc/self/status").read_text().split()
    most, files = (int(status[status.index(name) + 1]) for name in ("VmHWM:", "RssFile:"))
    print((most - files) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_masks_pass_in_bounded_memory() -> None:
    # the fewest for which a compiled network pays, and half as many again
    done = subprocess.run(
        [sys.executable, "-c", RISE, "120", "180"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 30
    assert many < 600


# Paints animations, small.
FILM = """
import sys, torch
from pathlib import Path
from lantern.image import Image
from lantern.run import run
from lantern.styles.library import StyleLibrary
torch.set_num_threads(1)
styles = StyleLibrary(Path(sys.argv[1]))
for path in sys.argv[2:]:
    image = Image.decode(Path(path).read_bytes())
    made = run("fast-style", {"image": image}, {"size": 64}, styles=styles).principal
    assert len(made.frames) == int(Path(path).stem)
    status = Path("/proc/self/status").read_text().split()
    most, files = (int(status[status.index(name) + 1]) for name in ("VmHWM:", "RssFile:"))
    print((most - files) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_frames_of_an_animation_pass_in_bounded_memory(tmp_path: Path) -> None:
    paths = [tmp_path / f"{count}.gif" for count in (6, 40)]
    for path in paths:
        path.write_bytes(film("GIF", count=int(path.stem), size=(1024, 1024)))
    styles = Path(__file__).parent.parent / "model_store" / "styles"
    done = subprocess.run(
        [sys.executable, "-c", FILM, styles, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 100  # decoded, all have 12 MB each
