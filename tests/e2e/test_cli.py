"""The command line: techniques on files without a stack, training, and clear refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lantern.image import Image
from lantern.records import RECORDS
from services.cli import main
from services.gateway.guard import digest
from services.settings import Settings
from tests.e2e.conftest import Lantern
from tests.e2e.pictures import decode, encode, kind_of, noise

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, small_cat: bytes) -> Path:
    path = tmp_path_factory.mktemp("photos") / "cat.jpg"
    path.write_bytes(small_cat)
    return path


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lantern:
    """Run `lantern` with some words and settings in this process, which has loaded it already."""

    def run(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main([*map(str, words)])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, printed.out, printed.err)

    return run


class TestTechniques:
    def test_classify_prints_a_table(self, lantern: Lantern, photo: Path) -> None:
        ran = lantern("classify", photo, "--top", "3")
        assert ran.returncode == 0, ran.stderr
        rows = json.loads(ran.stdout)["artifacts"][0]["data"]
        assert len(rows) == 3
        assert "cat" in rows[0]["label"] or rows[0]["label"] == "tabby"

    def test_grad_cam_writes_raw_numbers(self, here: Lantern, photo: Path, tmp_path: Path) -> None:
        out = tmp_path / "why.npz"
        ran = here("grad-cam", photo, "-o", out, "--target", "0", "--relu", "false")
        assert ran.returncode == 0, ran.stderr
        assert "why.npz" in ran.stdout
        with np.load(out) as arrays:
            heatmap = arrays["heatmap"]
        assert heatmap.shape == decode(photo.read_bytes()).shape[:2]
        assert np.isfinite(heatmap).all()
        assert heatmap.min() < heatmap.max()

    def test_fast_style_writes_a_picture(self, here: Lantern, photo: Path, tmp_path: Path) -> None:
        out = tmp_path / "painted.webp"
        ran = here("fast-style", photo, "-o", out, "--size", "128")
        assert ran.returncode == 0, ran.stderr
        assert kind_of(out.read_bytes()) == "WEBP"
        assert max(decode(out.read_bytes()).shape) == 128

    def test_deep_dream_shows_its_progress(
        self, here: Lantern, photo: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "dream.png"
        words = ("--steps", "2", "--octaves", "2", "--size", "144", "--seed", "3")
        ran = here("deep-dream", photo, "-o", out, *words)
        assert ran.returncode == 0, ran.stderr
        assert kind_of(out.read_bytes()) == "PNG"
        assert "4/4" in ran.stderr
        assert "4/4" not in ran.stdout


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["classify", "no-such-file.jpg"], "no-such-file.jpg cannot be read"),
            (["grad-cam", "{photo}", "--target", "1000"], "0 to 999"),
            (["fast-style", "{photo}", "--size", "9"], "size"),
            (["fast-style", "{photo}", "--style", "nope"], "starry-night"),
            (["deep-dream", "{photo}", "--layer", "nope", "-o", "{out}/x.png"], "no such layer"),
            (["classify", "{photo}", "-o", "{out}/x.tiff"], ".npz"),
            # before the first step, which would be seen
            (["deep-dream", "{photo}", "-o", "{out}/dream"], ".npz"),
            (["deep-dream", "{photo}", "--output", "{out}/a/x.png"], "no folder that exists"),
            (["deep-dream", "{photo}", "--seed", "1", "-o", "{folder}"], "is a folder"),
            (["classify", "{text}"], "JPEG, PNG, WebP or GIF"),
        ],
        ids=lambda value: "" if isinstance(value, str) else "-".join(value[:3:2]),
    )
    def test_what_is_wrong_is_said_in_one_line(
        self,
        capsys: pytest.CaptureFixture[str],
        photo: Path,
        tmp_path: Path,
        words: list[str],
        said: str,
    ) -> None:
        text = tmp_path / "notes.jpg"
        text.write_text("not a picture")
        folder = tmp_path / "folder.png"
        folder.mkdir()
        places = {"photo": photo, "out": tmp_path, "text": text, "folder": folder}
        status = main([word.format(**places) for word in words])
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        (line,) = printed.err.splitlines()
        assert line.startswith("lantern: ")
        assert said in line
        assert not (tmp_path / "x.png").exists()

    def test_what_a_technique_makes_is_not_lost_for_a_name(
        self, capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
    ) -> None:
        assert main(["filters", "-o", str(tmp_path / "first.safetensors")]) == 2
        kept = tmp_path / "first.safetensors.jpg"
        assert capsys.readouterr().err.rstrip().endswith(f"what there is was written to {kept}")
        assert Image.decode(kept.read_bytes()).width > 100

    def test_the_process_ends_with_status_2(self, lantern: Lantern) -> None:
        ran = lantern("classify", "no-such-file.jpg")
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == "lantern: no-such-file.jpg cannot be read: No such file or directory\n"

    @pytest.mark.parametrize("words", [[], ["nope"], ["classify"], ["fast-style", "a", "--nope"]])
    def test_an_unknown_word_shows_how_it_is_used(
        self, capsys: pytest.CaptureFixture[str], words: list[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("usage: lantern")

    @pytest.mark.parametrize(
        ("name", "text"),
        [("LANTERN_PORT", "http"), ("LANTERN_HOST", "0.0.0.0"), ("LANTERN_DOWNLOADS", "maybe")],
    )
    def test_a_wrong_setting_is_named(self, lantern: Lantern, name: str, text: str) -> None:
        ran = lantern("up", **{name: text})
        assert ran.returncode == 2
        (line,) = ran.stderr.splitlines()
        assert name in line


class TestWords:
    @pytest.fixture
    def said(self, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
        def run(*words: str) -> list[str]:
            assert main(words) == 0
            return capsys.readouterr().out.splitlines()

        return run

    def test_models_are_listed_with_the_state_of_their_weights(
        self, said: Callable[..., list[str]]
    ) -> None:
        states = dict(line.split()[:2] for line in said("models"))
        assert set(states) == set(RECORDS)
        assert states["efficientnet-lite0"] == "ready"

    def test_styles_are_listed(self, said: Callable[..., list[str]]) -> None:
        names = [line.split()[0] for line in said("styles")]
        assert "starry-night" in names

    def test_a_key_is_made_with_its_digest(self, said: Callable[..., list[str]]) -> None:
        key, shown = (line.split()[-1] for line in said("key"))
        assert key.startswith("lk_")
        assert shown == digest(key)

    def test_help_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        told = capsys.readouterr().out
        for word in (
            "up",
            "demo",
            "models",
            "styles",
            "key",
            "train-style",
            "keep-style",
            "train-styles",
        ):
            assert word in told


class TestTraining:
    @pytest.mark.parametrize("way", ["quick", "thorough"])
    def test_a_trained_style_can_be_kept_and_painted_with(
        self, here: Lantern, photo: Path, tmp_path: Path, way: str
    ) -> None:
        store = tmp_path / "store"
        shutil.copytree(Settings().styles_path, store / "styles")
        store_is = {"LANTERN_MODEL_STORE": str(store)}
        photos = tmp_path / "photos"
        photos.mkdir()
        for number in range(3):
            (photos / f"{number}.png").write_bytes(encode(noise(160, 120, seed=number)))
        painting = tmp_path / "painting.png"
        painting.write_bytes(encode(noise(120, 120, seed=9)))
        file = tmp_path / "smoke.safetensors"
        trained = here(
            "train-style", painting, "-o", file, "--way", way, "--collection", photos,
            "--steps", "2", "--batch", "1", "--crop", "64", "--style-size", "64", **store_is,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr
        words = ("keep-style", file, "--name", "smoke", "--title", "A test", "--made-by", "a test")
        kept = here(*words, **store_is)
        assert kept.returncode == 0, kept.stderr
        assert kept.stdout.startswith("smoke is in ")
        facts = json.loads((store / "styles" / "styles.json").read_text())["smoke"]
        assert facts["title"] == "A test"
        assert facts["blends"] == (way == "quick")
        assert facts["facts"]["judge"] == "efficientnet-lite0"
        assert facts["facts"]["command"] == "a test"
        assert kind_of((store / "styles" / "smoke.jpg").read_bytes()) == "JPEG"

        out = tmp_path / "painted.png"
        painted = here("fast-style", photo, "-o", out, "--style", "smoke", **store_is)
        assert painted.returncode == 0, painted.stderr
        assert decode(out.read_bytes()).shape == decode(photo.read_bytes()).shape

    def test_what_is_no_style_is_not_kept(self, here: Lantern, photo: Path) -> None:
        refused = here("keep-style", photo, "--name", "smoke")
        assert refused.returncode == 2
        assert "no style that train-style has written" in refused.stderr

    def test_many_styles_are_trained_together(
        self, here: Lantern, photo: Path, tmp_path: Path
    ) -> None:
        store, paintings, photos = (tmp_path / name for name in ("store", "paintings", "photos"))
        for folder, count in ((paintings, 2), (photos, 3)):
            folder.mkdir()
            for number in range(count):
                path = folder / f"a_{number}.png"
                path.write_bytes(encode(noise(120, 100, seed=number)))
        store_is = {"LANTERN_MODEL_STORE": str(store)}
        trained = here(
            "train-styles", paintings, "--photos", photos, "--judge", "efficientnet-lite0",
            "--steps", "2", "--batch", "2", "--crop", "64", "--style-size", "64", "--width", "4",
            "--blocks", "1", "--state", tmp_path / "state", **store_is,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr
        out = tmp_path / "painted.png"
        words = ("fast-style", photo, "-o", out, "--style", "a-0:0.3,a-1:0.7")
        painted = here(*words, **store_is)
        assert painted.returncode == 0, painted.stderr
        painted = here(
            "arbitrary-style", photo, "--style", paintings / "a_0.png", "-o", out, **store_is
        )
        assert painted.returncode == 0, painted.stderr
        assert decode(out.read_bytes()).shape == decode(photo.read_bytes()).shape
