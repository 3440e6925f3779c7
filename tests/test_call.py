"""A call travels as bytes and comes back as bytes."""

from __future__ import annotations

import base64
import io
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from lantern import registry
from lantern.artifact import (
    PLAIN,
    SAFETENSORS,
    Animation,
    Artifact,
    Grid,
    Heatmap,
    NotAcceptable,
    Picture,
    Rendering,
    Table,
    Weights,
)
from lantern.call import Call, Studio, by_slot, check, choose, decode, decoded, document, number
from lantern.errors import BadImage, InvalidParameters, MissingInput, UnknownName
from lantern.image import GIF, Image
from lantern.run import run
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel
from lantern.zoo import Zoo

JPEG, PNG, WEBP = "image/jpeg", "image/png", "image/webp"
JSON, NPZ = "application/json", "application/x-npz"


def word(chance: random.Random) -> str:
    letters = string.printable + "äß漢🎨\0\u2028"
    return "".join(chance.choices(letters, k=chance.randrange(12)))


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(7 if depth < 2 else 5)
    plain = [None, chance.random() * 1e9, chance.randrange(-(10**12), 10**12), word(chance), True]
    if kind < 5:
        return plain[kind]
    inner = [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return inner if kind == 5 else {word(chance): item for item in inner}


def random_call(chance: random.Random) -> Call:
    slots = chance.sample(["image", "style", "mask", "größe", "x"], chance.randrange(4))
    return Call(
        technique=word(chance),
        inputs={slot: chance.randbytes(chance.choice((0, 1, 100, 5000))) for slot in slots},
        params={word(chance): value(chance) for _ in range(chance.randrange(5))},
        rendering={word(chance): value(chance) for _ in range(chance.randrange(3))},
        model=word(chance),
        seed=chance.randrange(2**31),
        accept=[word(chance) for _ in range(chance.randrange(4))],
    )


@pytest.mark.parametrize("seed", range(50))
def test_a_call_survives_packing(seed: int) -> None:
    call = random_call(random.Random(seed))
    head, body = call.pack()
    assert head.isascii()
    assert head.isprintable()  # it travels as an HTTP header
    assert Call.unpack(head, body) == call


def test_a_single_picture_is_not_copied() -> None:
    data = bytes(1000)
    assert Call("t", {"image": data}).pack()[1] is data
    assert Call("t", {"a": b"1", "b": b"", "c": b"23"}).pack()[1] == b"123"


def test_an_empty_call_asks_for_the_default() -> None:
    call = Call.unpack(*Call("classify", {}).pack())
    assert (call.model, call.seed, list(call.accept)) == ("efficientnet-lite0", 0, ["*/*"])


# --- Choosing the form -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "accept", "chosen"),
    [
        ("picture", ["*/*"], JPEG),
        ("picture", [PNG], PNG),
        ("picture", [WEBP, PNG], WEBP),
        ("picture", ["image/*"], JPEG),
        ("picture", ["text/html", "image/gif", "image/*"], JPEG),
        ("picture", [JSON], JSON),
        ("picture", [NPZ], NPZ),
        ("picture", ["application/*", PNG], PNG),
        ("clear", ["*/*"], PNG),
        ("clear", ["image/*"], PNG),
        ("clear", [JPEG], JPEG),
        ("heatmap", ["image/*"], JPEG),
        ("heatmap", [NPZ, PNG], NPZ),
        ("table", ["*/*"], JSON),
        ("table", ["application/*"], JSON),
        ("table", [PNG, JSON], JSON),
        ("table", [NPZ], NPZ),
        ("grid", ["*/*"], JPEG),
        ("grid", [WEBP], WEBP),
        ("film", ["*/*"], WEBP),
        ("film", ["image/*"], WEBP),
        ("film", [PNG, GIF, WEBP], GIF),
        ("film", [PNG, JSON], JSON),
        ("weights", ["*/*"], SAFETENSORS),
        ("weights", ["application/*"], SAFETENSORS),
        ("weights", [PNG, SAFETENSORS], SAFETENSORS),
        ("weights", [JSON], JSON),
    ],
)
def test_the_first_acceptable_form_that_exists_is_chosen(
    kind: str, accept: list[str], chosen: str, picture: Image
) -> None:
    assert choose(artifacts(picture)[kind], accept) == chosen


@pytest.mark.parametrize(
    ("kind", "accept"),
    [
        ("picture", []),
        ("picture", ["image/gif"]),
        ("picture", ["text/*"]),
        ("table", [PNG]),
        ("table", ["image/*"]),
        ("grid", [GIF]),
        ("film", [JPEG, PNG]),
        ("weights", ["image/*"]),
        ("picture", [SAFETENSORS]),
    ],
)
def test_no_acceptable_form_is_an_error(kind: str, accept: list[str], picture: Image) -> None:
    with pytest.raises(NotAcceptable, match=r"it can be had as .*application/x-npz") as caught:
        choose(artifacts(picture)[kind], accept)
    assert caught.value.code == "not-acceptable"


def artifacts(picture: Image) -> dict[str, Artifact]:
    clear = Image(picture.pixels, alpha=picture.pixels[0])
    return {
        "picture": Picture("p", picture),
        "clear": Picture("p", clear),
        "heatmap": Heatmap("h", picture.pixels[0], picture),
        "table": Table("t", ({"a": 1},)),
        "grid": Grid("g", picture.pixels[None], 1),
        "film": Animation("f", (picture,), 100),
        "weights": Weights("w", {"a": picture.pixels}),
    }


# --- Inputs ------------------------------------------------------------------------------------


def test_a_wrong_picture_is_pointed_at(picture: Image) -> None:
    good = picture.encode()
    transfer = registry.find("style-transfer")
    for bad in (b"", b"text", good[: len(good) // 2]):
        inputs = {"image": good, "style": bad}
        with pytest.raises(BadImage) as caught:
            decode(inputs)
        assert caught.value.pointer == "/inputs/style"
        with pytest.raises(BadImage) as caught:
            check(transfer, inputs, thoroughly=True)
        assert caught.value.pointer == "/inputs/style"


def test_the_pictures_of_a_slot_are_numbered_in_their_order(picture: Image) -> None:
    shades = [Image(picture.pixels * n / 4).encode() for n in range(4)]
    inputs = number({"style": shades[:3], "image": shades[3:], "mask": []})
    assert list(inputs) == ["style", "style-2", "style-3", "image"]
    assert by_slot(inputs) == {"style": shades[:3], "image": shades[3:]}
    assert Call.unpack(*Call("t", inputs).pack()).inputs == inputs
    images = decode(inputs)
    assert [len(images[slot]) for slot in ("style", "image")] == [3, 1]
    means = [float(image.pixels.mean()) for image in images["style"]]
    assert means == sorted(means)
    assert means[0] == 0 < means[1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_wrong_picture_among_several_is_pointed_at(place: int, picture: Image) -> None:
    several = [picture.encode()] * 3
    several[place] = b"text"
    with pytest.raises(BadImage) as caught:
        decode(number({"style": several}))
    assert caught.value.pointer == f"/inputs/style/{place}"


def test_headers_are_checked_quickly_and_pixels_thoroughly(picture: Image) -> None:
    data = picture.encode()
    saliency, cut = registry.find("saliency"), data[: len(data) // 2]
    check(saliency, {"image": cut}, thoroughly=False)
    with pytest.raises(BadImage):
        check(saliency, {"image": cut}, thoroughly=True)
    with pytest.raises(MissingInput):
        check(saliency, {}, thoroughly=False)


# --- Performing --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def studio(styles: StyleLibrary) -> Studio:
    return Studio(Zoo(downloads=False), styles)


def test_a_call_is_performed(studio: Studio, photo: Image) -> None:
    data = photo.encode()
    answer = studio.perform(Call("classify", {"image": data}, {"top": 3}))
    rows = json.loads(answer.body)["artifacts"][0]["data"]
    assert len(rows) == 3
    assert "cat" in rows[0]["label"]
    assert rows[0]["probability"] >= rows[1]["probability"]
    assert answer.media_type == JSON
    assert answer.timings.keys() == {"decode", "model", "encode"}
    assert all(ms >= 0 for ms in answer.timings.values())


def test_the_answer_has_the_form_asked_for(studio: Studio, photo: Image) -> None:
    data = photo.encode()
    bodies = {
        accept: studio.perform(Call("saliency", {"image": data}, accept=[accept])).body
        for accept in (JPEG, PNG, WEBP, JSON, NPZ)
    }
    for accept in (JPEG, PNG, WEBP):
        header = Image.probe(bodies[accept])
        assert (header.media_type, header.width, header.height) == (accept, 128, 85)
    said = json.loads(bodies[JSON])
    assert said["technique"] == "saliency"
    assert said["params"]["reduce"] == "abs-max"
    with np.load(io.BytesIO(bodies[NPZ])) as arrays:
        assert arrays["heatmap"].shape == (85, 128)


def test_a_wrong_call_is_refused(studio: Studio, photo: Image) -> None:
    inputs = {"image": photo.encode()}
    wrong: list[tuple[Call, type[Exception], str]] = [
        (Call("nonsense", inputs), UnknownName, "unknown-technique"),
        (Call("saliency", inputs, model="nonsense"), UnknownName, "unknown-model"),
        (Call("saliency", {}), MissingInput, "missing-input"),
        (Call("saliency", inputs, {"target": "1"}), InvalidParameters, "invalid-parameter"),
        (
            Call("saliency", inputs, rendering={"opacity": 2}),
            InvalidParameters,
            "invalid-parameter",
        ),
        (Call("saliency", inputs, accept=["image/gif"]), NotAcceptable, "not-acceptable"),
        (Call("fast-style", inputs, {"style": "x"}), UnknownName, "unknown-style"),
    ]
    for call, kind, code in wrong:
        with pytest.raises(kind) as caught:
            studio.perform(call)
        assert caught.value.code == code  # type: ignore[attr-defined]


def test_rendering_reaches_the_encoder(studio: Studio, photo: Image) -> None:
    inputs = {"image": photo.encode()}
    plain = studio.perform(Call("saliency", inputs, rendering={"opacity": 0}, accept=[PNG]))
    assert np.array_equal(Image.decode(plain.body).to_uint8(), photo.to_uint8())


# --- The document ------------------------------------------------------------------------------


def test_the_document_holds_the_result(small_model: VisionModel, picture: Image) -> None:
    result = run("saliency", {"image": picture}, {"target": 2}, model=small_model, seed=4)
    said = json.loads(json.dumps(document(result, Rendering(overlay=False)), allow_nan=False))
    assert said["seed"] == 4
    assert said["params"] == result.params.model_dump(mode="json")
    assert said["params"]["target"] == 2
    assert said["facts"]["insertion"]["auc"] >= 0
    assert said["facts"]["class"]["label"] == "cat"
    (entry,) = said["artifacts"]
    assert (entry["name"], entry["kind"], entry["media_type"]) == ("heatmap", "heatmap", JPEG)
    head, _, data = entry["data"].partition(",")
    assert head == f"data:{JPEG};base64"
    assert base64.b64decode(data) == result.principal.encode(JPEG, Rendering(overlay=False))


def test_a_table_in_a_document_is_plain(small_model: VisionModel, picture: Image) -> None:
    said = document(run("classify", {"image": picture}, {"top": 2}, model=small_model), PLAIN)
    rows = said["artifacts"][0]["data"]
    assert [set(row) for row in rows] == [{"class", "label", "probability"}] * 2


@pytest.mark.usefixtures("invented")
@pytest.mark.parametrize("first", ["grid", "animation", "weights"])
def test_every_kind_of_artifact_is_in_the_document(first: str) -> None:
    result = run("album", {}, {"first": first})
    said = json.loads(json.dumps(document(result, PLAIN), allow_nan=False))["artifacts"]
    assert said[0]["kind"] == result.principal.kind == first
    types = {"grid": JPEG, "animation": WEBP, "weights": SAFETENSORS}
    for entry, artifact in zip(said, result.artifacts, strict=True):
        head, _, data = entry["data"].partition(",")
        assert entry["media_type"] == types[entry["kind"]]
        assert head == f"data:{entry['media_type']};base64"
        assert base64.b64decode(data) == artifact.encode(entry["media_type"])
    with np.load(io.BytesIO(result.npz())) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            "grid": (3, 3, 24, 32), "animation": (3, 3, 24, 32)
        }  # fmt: skip


@pytest.mark.usefixtures("invented")
def test_a_principal_artifact_of_any_kind_is_answered_with(studio: Studio) -> None:
    for first, form, start in [
        ("grid", PNG, b"\x89PNG"),
        ("animation", GIF, b"GIF89a"),
        ("animation", "*/*", b"RIFF"),
        ("weights", "*/*", b""),
    ]:
        answer = studio.perform(Call("album", {}, {"first": first}, accept=[form]))
        assert answer.body.startswith(start)
        assert form in ("*/*", answer.media_type)
    assert safetensors.torch.load(answer.body)["a.b"].shape == (3, 24, 32)
    assert answer.media_type == SAFETENSORS


def test_a_studio_without_styles_says_so(photo: Image, tmp_path: Path) -> None:
    empty = Studio(Zoo(downloads=False), StyleLibrary(tmp_path))
    with pytest.raises(UnknownName, match="no such style"):
        empty.perform(Call("fast-style", {"image": photo.encode()}))


@pytest.mark.parametrize(("size", "longest"), [(256, 400), (900, 1600), (4096, 1600)])
def test_a_large_photograph_is_decoded_no_larger_than_it_is_used(
    photo: Image, size: int, longest: int
) -> None:
    data = photo.resize(1200, 1600).encode("image/jpeg", 95)
    small = decoded(Call("fast-style", {"image": data}, {"size": size}))["image"][0]
    whole = decode({"image": data})["image"][0]
    assert (small.height, small.width) == (longest * 3 // 4, longest)
    assert longest >= min(size, 1600)
    alike = small.fit(256).pixels - whole.fit(256).pixels
    assert alike.abs().mean() < 0.01
    assert decoded(Call("classify", {"image": data}))["image"][0].width == 1600
