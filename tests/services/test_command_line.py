"""The command line runs techniques on files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lantern import registry
from lantern.artifact import Outcome, Table
from lantern.image import Image
from lantern.params import Params
from lantern.styles.library import Style, StyleLibrary
from services import cli
from services.docs import page
from services.settings import Settings

pytestmark = pytest.mark.usefixtures("invented")

Lantern = Callable[..., int]


@pytest.fixture
def shades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of one grey each, called by their level."""
    monkeypatch.chdir(tmp_path)
    names = []
    for level in (10, 20, 30, 40, 50, 60):
        picture = Image(torch.full((3, 16, 16), level / 255))
        Path(f"{level}.png").write_bytes(picture.encode())
        names.append(f"{level}.png")
    return names


def lantern(words: str) -> int:
    return cli.main(words.split())


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        ("10.png --style 20.png", ["image 10", "style 20"]),
        ("10.png --style 20.png 30.png", ["image 10", "style 20", "style 30"]),
        ("10.png --style 30.png 20.png --mask 40.png",
         ["image 10", "mask 40", "style 30", "style 20"]),
        ("--style 20.png --wide-extra 60.png 50.png --mask 40.png -- 10.png",
         ["image 10", "mask 40", "style 20", "wide_extra 60", "wide_extra 50"]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("shades")
def test_pictures_are_given_by_place_or_by_slot(
    words: str, levels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert lantern(f"collage {words}") == 0
    rows = json.loads(capsys.readouterr().out)["artifacts"][0]["data"]
    assert [f"{row['slot']} {row['level']}" for row in rows] == levels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("10.png --style 20.png 30.png 40.png 50.png", "given for style: 4; it takes 1 to 3"),
        ("10.png --style nowhere.png", "nowhere.png cannot be read"),
    ],
)
@pytest.mark.usefixtures("shades")
def test_wrong_pictures_are_told(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lantern(f"collage {words}") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("style", StyleLibrary(Settings().styles_path).styles().values())
def test_the_command_that_made_a_style_can_be_given_again(style: Style) -> None:
    program, *words = shlex.split(style.facts["command"])
    assert program == "lantern"
    chosen = cli._parser().parse_args(words)
    if words[0] == "train-style":
        params = cli._params(chosen, chosen.technique.params_type).model_dump()
        # what is None is chosen by the way that is taken
        given = {name: value for name, value in params.items() if value is not None}
        recorded = style.facts["params"]
        assert {name: given[name] for name in recorded if name in given}.items() <= recorded.items()


@pytest.mark.parametrize(
    ("name", "said"),
    [("shared", "choose another name"), ("Waves", "no style's name"), ("a--b", "no style's name")],
)
def test_a_style_is_not_kept_under_any_name(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lantern(f"keep-style {tmp_path / 'style.safetensors'} --name {name}") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", ["", "10.png", "10.png 20.png", "10.png --style"])
@pytest.mark.usefixtures("shades")
def test_a_slot_that_must_be_filled_is_asked_for(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        lantern(f"collage {words}")
    assert "usage: lantern collage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["10.png 20.png --wide-extra 30.png", "--wide-extra 30.png -- 10.png 20.png"]
)
@pytest.mark.usefixtures("shades")
def test_the_only_slot_that_must_be_filled_takes_its_files_by_place(
    words: str, own_registry: dict[str, registry.Technique], capsys: pytest.CaptureFixture[str]
) -> None:
    def levels(style: Any, wide_extra: Any, params: Params) -> Outcome:
        found = [round(float(p.pixels.mean()) * 255) for p in (*style, *wide_extra)]
        return Outcome((Table("levels", tuple({"level": level} for level in found)),))

    collage = own_registry["collage"]
    slots = {name: collage.inputs[name] for name in ("wide_extra", "style")}
    own_registry["collage"] = replace(collage, inputs=slots, params_type=Params, function=levels)
    assert lantern(f"collage {words}") == 0
    rows = json.loads(capsys.readouterr().out)["artifacts"][0]["data"]
    assert [row["level"] for row in rows] == [10, 20, 30]


@pytest.mark.usefixtures("shades")
def test_a_technique_may_need_no_file() -> None:
    assert lantern("noise --size 20 --seed 3 -o one.png") == 0
    assert lantern("noise --size 20 --seed 3 -o two.png") == 0
    assert lantern("noise --size 20 --seed 4 -o three.png") == 0
    one, two, three = (Image.decode(Path(f"{n}.png").read_bytes()).to_uint8()
                       for n in ("one", "two", "three"))  # fmt: skip
    assert one.shape == (20, 20, 3)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


@pytest.mark.usefixtures("shades")
def test_an_optional_file_may_be_left_out() -> None:
    assert lantern("shown -o grey.png") == 0
    assert lantern("shown --image 20.png -o dark.png") == 0
    levels = [int(Image.decode(Path(f"{n}.png").read_bytes()).to_uint8().mean())
              for n in ("grey", "dark")]  # fmt: skip
    assert levels == [128, 20]


@pytest.mark.usefixtures("shades")
@pytest.mark.parametrize(
    ("first", "name", "start"),
    [
        ("grid", "x.webp", b"RIFF"),
        ("grid", "x.jpg", b"\xff\xd8"),
        ("animation", "x.GIF", b"GIF89a"),
        ("animation", "x.webp", b"RIFF"),
        ("animation", "x.json", b'{"technique": "album"'),
        ("weights", "x.npz", b"PK"),
    ],
)
def test_the_suffix_says_in_which_form(first: str, name: str, start: bytes) -> None:
    assert lantern(f"album --first {first} -o {name}") == 0
    assert Path(name).read_bytes().startswith(start)


@pytest.mark.usefixtures("shades")
def test_further_pictures_and_animations_are_written_beside_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lantern("album --first grid -o sheet.png") == 0
    assert sorted(path.name for path in Path().glob("sheet*")) == [
        "sheet-animation.webp", "sheet.png"
    ]  # fmt: skip
    assert Path("sheet-animation.webp").read_bytes()[8:12] == b"WEBP"
    assert capsys.readouterr().out.splitlines()[1] == "sheet-animation.webp"
    assert lantern("album --first grid -o all.npz") == 0
    assert [path.name for path in Path().glob("all*")] == ["all.npz"]


@pytest.mark.usefixtures("shades")
def test_without_a_name_the_form_says_the_suffix() -> None:
    for first, suffix in (("grid", "jpg"), ("animation", "webp"), ("weights", "safetensors")):
        assert lantern(f"album --first {first}") == 0
        assert Path(f"album.{suffix}").is_file()
    assert set(safetensors.torch.load_file("album.safetensors")) == {"a.b"}


@pytest.mark.usefixtures("shades")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--first animation -o x.png", "of the animation animation; it can be had as image/webp"),
        ("--first grid -o x.gif", "it can be had as image/jpeg"),
        ("--first grid -o x.tiff", "must end in one of .jpg"),
    ],
)
def test_a_form_that_does_not_exist_is_told(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lantern(f"album {words}") == 2
    assert said in capsys.readouterr().err


def test_the_pages_show_calls_that_fit() -> None:
    shown = {name: page(registry.find(name)) for name in ("collage", "noise", "shown")}
    assert "lantern collage image.jpg --style style.jpg -o out.png\n" in shown["collage"]
    assert "curl -F image=@image.jpg -F style=@style.jpg http" in shown["collage"]
    assert "- `style`: what it is shown with; 1 to 3 pictures\n" in shown["collage"]
    assert "- `mask`: where it is shown; optional\n" in shown["collage"]
    for name in ("noise", "shown"):
        assert f"lantern {name} -o out.png\ncurl -X POST http" in shown[name]
    assert "None: it makes pictures from nothing." in shown["noise"]


def test_what_was_trained_is_a_file_that_another_command_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert lantern(
        "train-decoder --size 16 --width 4 --steps 1 --batch 1 --looked-at 2 -o own.safetensors"
    ) == 0  # fmt: skip
    assert "mean" in safetensors.torch.load_file("own.safetensors")
    make = "activation-maximization --method decoder --size 48 --steps 1 -o made.png --decoder "
    assert lantern(make + "own.safetensors") == 0
    assert Image.decode(Path("made.png").read_bytes()).width == 48
    assert lantern(make + "other.safetensors") == 2
    Path("cut.safetensors").write_bytes(Path("own.safetensors").read_bytes()[:-2])
    assert lantern(make + "cut.safetensors") == 2
    told = capsys.readouterr().err
    assert "no such decoder" in told
    assert "damaged" in told
