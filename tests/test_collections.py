"""Sets of pictures: what is in them, when it is read, and how a technique gets at them."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import weakref
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import PIL.Image
import pytest
from pydantic import Field

from lantern import registry, samples
from lantern.artifact import Outcome, Table
from lantern.collections.collection import Collection
from lantern.collections.digest import digest_of
from lantern.collections.folder import open_folder
from lantern.collections.library import Collections, sample_collection
from lantern.errors import BadImage, InvalidParameter, UnknownName
from lantern.image import Image
from lantern.params import Params
from lantern.registry import technique
from lantern.run import run
from services.cli import main


def png(grey: int, size: tuple[int, int] = (20, 16)) -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", size, (grey, grey, grey)).save(out, "PNG")
    return out.getvalue()


FILES = {"b.png": png(51), "cats/tom.jpg": png(102), "a.png": png(0), "cats/siam/x.webp": png(255)}


def collection(files: dict[str, bytes] = FILES) -> Collection:
    return Collection("mine", files, files.__getitem__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


class TestACollection:
    def test_pictures_stand_in_the_order_of_their_names(self) -> None:
        made = collection()
        assert len(made) == 4
        wanted = ["a.png", "b.png", "cats/siam/x.webp", "cats/tom.jpg"]
        assert [entry.name for entry in made] == wanted
        assert [made.entry(index).name for index in range(4)] == wanted
        assert [entry.folder for entry in made] == ["", "", "cats/siam", "cats"]
        with pytest.raises(IndexError):
            made.entry(4)

    def test_each_name_stands_for_its_own_picture(self) -> None:
        greys = [entry.image.to_uint8()[0, 0, 0] for entry in collection()]
        assert greys == [0, 51, 255, 102]

    def test_nothing_is_read_before_it_is_looked_at(self) -> None:
        asked: list[str] = []

        def read(name: str) -> bytes:
            asked.append(name)
            return FILES[name]

        made = Collection("mine", FILES, read)
        entries = list(made)
        assert asked == []
        assert entries[1].image.width == 20
        assert entries[1].image is entries[1].image
        assert asked == ["b.png"]

    def test_going_through_holds_one_picture_at_a_time(self) -> None:
        images: list[weakref.ref[Image]] = []
        for entry in collection():
            gc.collect()
            assert all(image() is None for image in images)
            images.append(weakref.ref(entry.image))
        assert len(images) == 4

    def test_a_picture_that_cannot_be_decoded_is_named(self) -> None:
        bad = collection({"cats/bad.png": png(3)[:60]})
        with pytest.raises(BadImage, match=r"cats/bad\.png: .*damaged") as caught:
            _ = bad.entry(0).image
        assert caught.value.pointer == "/params/collection"


class TestTheDigest:
    def test_it_is_the_hash_of_names_and_contents(self) -> None:
        lines = [
            json.dumps([name, hashlib.sha256(FILES[name]).hexdigest()]) + "\n"
            for name in sorted(FILES)
        ]
        assert collection().digest == hashlib.sha256("".join(lines).encode()).hexdigest()

    def test_order_does_not_matter_but_names_and_bytes_do(self) -> None:
        first = collection().digest
        assert collection(dict(reversed(FILES.items()))).digest == first
        renamed = {("c.png" if name == "b.png" else name): FILES[name] for name in FILES}
        changed = FILES | {"b.png": png(52)}
        swapped = FILES | {"b.png": FILES["a.png"], "a.png": FILES["b.png"]}
        fewer = {name: FILES[name] for name in list(FILES)[1:]}
        others = [collection(files).digest for files in (renamed, changed, swapped, fewer)]
        assert len({first, *others}) == 5

    def test_names_cannot_be_mistaken_for_contents(self) -> None:
        a, b = "a" * 64, "b" * 64
        assert digest_of([("x", a), ("y", b)]) != digest_of([(f'x", "{a}"]\n["y', b)])

    def test_one_that_is_known_is_not_computed(self) -> None:
        def read(name: str) -> bytes:
            raise AssertionError

        assert Collection("mine", FILES, read, digest="known").digest == "known"


class TestAFolder:
    def test_it_has_the_pictures_below_it(self, folder: Path) -> None:
        made = open_folder(folder)
        assert (made.name, made.names) == ("pets", collection().names)
        assert made.digest == collection().digest
        assert made.entry(3).read() == FILES["cats/tom.jpg"]

    def test_what_is_hidden_or_no_picture_is_left_out(self, folder: Path) -> None:
        for name in (".hidden.png", ".git/x.png", "cats/.DS_Store", "notes.txt", "x.bmp", "PNG"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(png(1))
        (folder / "folder.png").mkdir()
        (folder / "LOUD.JPEG").write_bytes(png(1))
        assert set(open_folder(folder).names) == {*FILES, "LOUD.JPEG"}

    def test_one_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for name in ("none", "file"):
            with pytest.raises(UnknownName, match="no such folder"):
                open_folder(tmp_path / name)

    def test_a_file_that_has_gone_is_named(self, folder: Path) -> None:
        made = open_folder(folder)
        (folder / "a.png").unlink()
        with pytest.raises(BadImage, match=r"a\.png cannot be read"):
            made.entry(0).read()


class TestSamples:
    def test_photographs_and_textures_can_all_be_decoded(self) -> None:
        made = sample_collection()
        assert len(made) == 20
        assert {"cat", "coffee", "grass", "gravel", "camera"} <= set(made.names)
        for entry in made:
            image = entry.image
            assert min(image.height, image.width) >= 100, entry.name
            assert np.ptp(image.to_uint8()) > 80, entry.name

    def test_none_is_there_twice(self) -> None:
        contents = [hashlib.sha256(entry.read()).digest() for entry in sample_collection()]
        assert len(set(contents)) == len(contents)

    def test_the_photographs_of_the_page_are_among_them(self) -> None:
        assert samples.photographs().items() <= samples.pictures().items()


class TestCollections:
    def test_those_that_are_built_in_are_always_there(self) -> None:
        assert Collections().find("samples") is sample_collection()

    def test_others_are_opened_once_when_they_are_asked_for(self) -> None:
        opened: list[str] = []

        def open_mine() -> Collection:
            opened.append("mine")
            return collection()

        both = Collections({"mine": open_mine})
        assert opened == []
        assert both.find("mine") is both.find("mine")
        assert opened == ["mine"]

    def test_an_unknown_one_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(UnknownName, match="did you mean samples") as caught:
            Collections({"mine": collection}).find("sample")
        assert (caught.value.code, caught.value.pointer) == (
            "unknown-collection", "/params/collection",
        )  # fmt: skip
        assert "mine, samples" in caught.value.detail

    @pytest.mark.parametrize("name", ["/etc", ".", "..", "/", "file:///etc", ""])
    def test_a_path_is_not_a_name(self, name: str) -> None:
        with pytest.raises(UnknownName):
            Collections().find(name)

    def test_an_empty_one_is_refused(self) -> None:
        with pytest.raises(InvalidParameter, match="empty") as caught:
            Collections({"mine": lambda: collection({})}).find("mine")
        assert caught.value.code == "empty-collection"


class ShadeParams(Params):
    collection: str = Field("samples", max_length=64, description="pictures to look at")


class Collectionless(Params):
    pass


@pytest.fixture
def shades(monkeypatch: pytest.MonkeyPatch) -> None:
    """A technique that reads a collection, thrown away after the test."""
    known = {found.name: found for found in registry.every()}
    monkeypatch.setattr(registry, "_techniques", known)

    @technique("shades", family="inference", runs="job", source="none", outputs={"shades": "greys"})
    def shades(
        image: Annotated[Image, "any picture"], collections: Collections, params: ShadeParams
    ) -> Outcome:
        """Say how bright each picture of a collection is."""
        found = collections.find(params.collection)
        shades = {entry.name: round(float(entry.image.pixels.mean()), 2) for entry in found}
        return Outcome((Table("shades", (shades,)),))


@pytest.mark.usefixtures("shades")
class TestATechnique:
    def test_it_reads_the_collection_it_names(self, picture: Image) -> None:
        others = Collections({"mine": collection})
        result = run("shades", {"image": picture}, {"collection": "mine"}, collections=others)
        assert json.loads(result.principal.encode("application/json")) == [
            {"a.png": 0.0, "b.png": 0.2, "cats/siam/x.webp": 1.0, "cats/tom.jpg": 0.4}
        ]
        assert result.facts["collection"] == {
            "name": "mine", "count": 4, "digest": collection().digest,
        }  # fmt: skip

    def test_the_built_in_one_needs_nothing(self, picture: Image) -> None:
        assert run("shades", {"image": picture}).facts["collection"]["name"] == "samples"

    def test_an_unknown_one_is_refused(self, picture: Image) -> None:
        with pytest.raises(UnknownName):
            run("shades", {"image": picture}, {"collection": "mine"})

    def test_the_command_line_takes_a_folder(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(folder.parent)
        for given in (str(folder), "pets", "./pets/"):
            assert main(["shades", str(folder / "a.png"), "--collection", given]) == 0
            document: Any = json.loads(capsys.readouterr().out)
            assert document["params"]["collection"] == "pets"
            assert document["facts"]["collection"]["digest"] == collection().digest

    def test_the_command_line_says_what_is_wrong_with_one(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder.parent / "empty").mkdir()
        for name, reason in (("none", "no such folder"), ("empty", "is empty")):
            path = str(folder.parent / name)
            assert main(["shades", str(folder / "a.png"), "--collection", path]) == 2
            assert reason in capsys.readouterr().err

    @pytest.mark.parametrize("params", [ShadeParams, Collectionless])
    def test_collections_and_their_parameter_go_together(self, params: Any) -> None:
        def with_collections(collections: Collections, params: Any) -> Outcome:
            """Read nothing."""
            raise AssertionError

        def without(params: Any) -> Outcome:
            """Read nothing."""
            raise AssertionError

        wrong = without if params is ShadeParams else with_collections
        wrong.__annotations__["params"] = params
        wrong.__name__ = "wrong"
        with pytest.raises(TypeError, match="go together"):
            technique("wrong", family="inference", runs="job", source="none", outputs={"x": "x"})(
                wrong
            )
