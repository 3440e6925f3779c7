"""The one door lets in what is right and says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field

from lantern import registry
from lantern.artifact import Heatmap, Outcome, Picture, Table
from lantern.errors import InvalidParameter, InvalidParameters, MissingInput, NotFinite, UnknownName
from lantern.image import Image
from lantern.params import Params
from lantern.registry import Count
from lantern.run import check_inputs, legal_values, run, validate
from lantern.vision_model import VisionModel


class Sample(Params):
    amount: float = Field(0.5, gt=0, le=2, description="how much")
    count: int = Field(3, ge=1, le=9, description="how many")
    target: int | None = Field(None, ge=0, le=99, description="which class")
    kind: Literal["plain", "fancy"] = Field("plain", description="which kind")
    word: str = Field("x", max_length=4, description="what")
    flag: bool = Field(False, description="whether")
    several: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(
        (), max_length=3, description="some numbers"
    )


def wrong(raw: Mapping[str, Any], *, text: bool = False) -> tuple[InvalidParameter, ...]:
    with pytest.raises(InvalidParameters) as caught:
        validate(Sample, raw, text=text)
    return caught.value.problems


# --- Values from JSON --------------------------------------------------------------------------


def test_json_values_of_the_right_types_are_taken() -> None:
    raw = {"amount": 1, "count": 2, "kind": "fancy", "flag": True, "several": [1, 2]}
    made = validate(Sample, raw)
    assert made == Sample(amount=1.0, count=2, kind="fancy", flag=True, several=(1, 2))
    assert validate(Sample, {}) == Sample()
    assert validate(Sample, {"target": None}).target is None


@pytest.mark.parametrize(
    "raw",
    [
        {"count": "5"},
        {"count": 5.5},
        {"count": True},
        {"amount": "0.5"},
        {"amount": None},
        {"flag": "true"},
        {"flag": 1},
        {"word": 5},
        {"several": "1,2"},
        {"several": 1},
        {"several": ["1"]},
        {"several": [1, 2, 3, 4]},
        {"several": [10]},
        {"kind": "other"},
        {"word": "12345"},
        {"count": {}},
        {"count": 10**30},
    ],
)
def test_json_values_of_wrong_types_are_refused(raw: dict[str, Any]) -> None:
    (name,) = raw
    (problem,) = wrong(raw)
    assert problem.pointer.startswith(f"/params/{name}")
    assert problem.detail.startswith(name)
    assert problem.code == "invalid-parameter"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), json.loads("1e309")])
@pytest.mark.parametrize("name", ["amount", "count", "target"])
def test_json_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidParameters):
        validate(Sample, {name: value})


@pytest.mark.parametrize("value", [0, 2.0001, -1])
def test_the_bounds_are_those_declared(value: float) -> None:
    (problem,) = wrong({"amount": value})
    assert "it may be above 0 to 2, the default is 0.5" in problem.detail
    assert validate(Sample, {"amount": 2}).amount == 2


# --- Values from text --------------------------------------------------------------------------


def test_text_is_read_as_what_it_stands_for() -> None:
    raw = {"amount": "1.5", "count": "5", "target": "7", "flag": "true", "several": "1,2,3"}
    made = validate(Sample, raw, text=True)
    assert made == Sample(amount=1.5, count=5, target=7, flag=True, several=(1, 2, 3))


@pytest.mark.parametrize(
    ("text", "numbers"), [("", ()), ("4", (4,)), ("4,", (4,)), ("1,2", (1, 2))]
)
def test_lists_are_split_at_commas(text: str, numbers: tuple[int, ...]) -> None:
    assert validate(Sample, {"several": text}, text=True).several == numbers


@pytest.mark.parametrize(
    "raw",
    [
        {"count": "five"},
        {"count": "5.5"},
        {"count": ""},
        {"amount": "nan"},
        {"amount": "inf"},
        {"amount": "-Infinity"},
        {"amount": "1e309"},
        {"flag": "maybe"},
        {"several": "1,x"},
        {"several": "1,2,3,4"},
        {"kind": "Plain"},
    ],
)
def test_text_that_stands_for_nothing_is_refused(raw: dict[str, str]) -> None:
    (name,) = raw
    (problem,) = wrong(raw, text=True)
    assert problem.pointer.startswith(f"/params/{name}")


# --- Answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [False, True])
def test_an_unknown_name_is_answered_with_the_known_ones(text: bool) -> None:
    (problem,) = wrong({"cuont": "5"}, text=text)
    assert problem.code == "unknown-parameter"
    assert problem.pointer == "/params"
    assert "amount, count, target, kind, word, flag, several" in problem.detail


def test_everything_that_is_wrong_is_said_at_once() -> None:
    problems = wrong({"amount": 7, "count": 0, "nonsense": 1, "kind": "plain"})
    assert sorted(p.pointer for p in problems) == ["/params", "/params/amount", "/params/count"]
    with pytest.raises(InvalidParameters) as caught:
        validate(Sample, {"amount": 7, "count": 0})
    assert all(p.detail in caught.value.detail for p in caught.value.problems)


def test_an_answer_does_not_repeat_what_was_sent() -> None:
    for raw in ({"kind": "<script>"}, {"<script>": 1}, {"word": "<script>"}):
        assert "script" not in wrong(raw)[0].detail


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("amount", "it may be above 0 to 2, the default is 0.5"),
        ("count", "it may be 1 to 9, the default is 3"),
        ("target", "it may be 0 to 99, the default is chosen for you"),
        ("kind", "it may be plain, fancy, the default is plain"),
        ("flag", "the default is False"),
        ("several", "it may have at most 3 entries, the default is chosen for you"),
    ],
)
def test_legal_values_in_words(name: str, text: str) -> None:
    assert legal_values(Sample, name) == text


# --- Running -----------------------------------------------------------------------------------


def register(made: Outcome) -> None:
    """Register a technique called `constant` that hands back `made`."""

    def constant(image: Annotated[Image, "ignored"], params: Sample) -> Outcome:
        """Hand back what was made before."""
        return made

    constant.__annotations__ = {"image": Annotated[Image, "ignored"], "params": Sample}
    registry.technique(
        "constant", family="inference", runs="interactive", source="none", outputs={"a": "b"}
    )(constant)


def test_every_input_must_be_given(picture: Image) -> None:
    transfer = registry.find("style-transfer")
    check_inputs(transfer, {"image": picture, "style": picture})
    with pytest.raises(MissingInput, match="style is missing; style-transfer takes: image, style"):
        check_inputs(transfer, {"image": picture})
    with pytest.raises(MissingInput) as caught:
        run("style-transfer", {"style": picture})
    assert (caught.value.code, caught.value.pointer) == ("missing-input", "/inputs/image")


def test_an_unknown_input_is_refused(picture: Image) -> None:
    with pytest.raises(MissingInput, match="it takes: image") as caught:
        run("saliency", {"image": picture, "mask": picture})
    assert caught.value.code == "unknown-input"


def register_collector() -> dict[str, Any]:
    """Register a technique called `collector`; return where it puts what it got."""
    got: dict[str, Any] = {}

    def collector(
        image: Annotated[Image, "one"],
        mask: Annotated[Image | None, "perhaps one"],
        style: Annotated[tuple[Image, ...], "two or three", Count(2, 3)],
        extra: Annotated[tuple[Image, ...], "up to two", Count(0, 2)],
        params: Sample,
    ) -> Outcome:
        """Keep what it gets."""
        got.update(image=image, mask=mask, style=style, extra=extra)
        return Outcome((Picture("picture", image),))

    registry.technique(
        "collector", family="inference", runs="interactive", source="none", outputs={"a": "b"}
    )(collector)
    return got


def numbered(count: int) -> list[Image]:
    return [Image(torch.full((3, 16, 16), 0.1 * n), notes=(f"note {n}",)) for n in range(count)]


@pytest.mark.usefixtures("own_registry")
def test_a_technique_gets_what_its_slots_say() -> None:
    got, (a, b, c, d) = register_collector(), numbered(4)
    result = run("collector", {"image": a, "style": [c, b]})
    assert got == {"image": a, "mask": None, "style": (c, b), "extra": ()}
    assert result.facts["warnings"] == ["note 0", "note 2", "note 1"]
    run("collector", {"image": [a], "style": (b, c, d), "extra": d, "mask": (c,)})
    assert got == {"image": a, "mask": c, "style": (b, c, d), "extra": (d,)}
    run("collector", {"image": a, "style": [a, a], "extra": [], "mask": []})
    assert got == {"image": a, "mask": None, "style": (a, a), "extra": ()}


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("counts", "code", "pointer", "reason"),
    [
        ({"image": 0}, "missing-input", "/inputs/image", "image is missing; .*image, mask, style"),
        ({"style": 0}, "missing-input", "/inputs/style", "style is missing"),
        (
            {"style": 1},
            "missing-input",
            "/inputs/style",
            "given for style: 1; it takes 2 to 3: send more",
        ),
        (
            {"style": 5},
            "too-many-inputs",
            "/inputs/style/3",
            "given for style: 5; it takes 2 to 3: leave",
        ),
        (
            {"image": 2},
            "repeated-input",
            "/inputs/image/1",
            "given for image: 2; it takes 1: leave",
        ),
        ({"mask": 3}, "repeated-input", "/inputs/mask/1", "given for mask: 3; it takes 1: leave"),
        ({"extra": 3}, "too-many-inputs", "/inputs/extra/2", "it takes 0 to 2"),
        ({"more": 1}, "unknown-input", "/inputs", "has no such input"),
        ({"style-2": 1}, "unknown-input", "/inputs", "has no such input"),
    ],
)
def test_slots_are_filled_neither_too_little_nor_too_much(
    counts: dict[str, int], code: str, pointer: str, reason: str
) -> None:
    register_collector()
    given = {name: numbered(n) for name, n in ({"image": 1, "style": 2} | counts).items()}
    with pytest.raises(MissingInput, match=reason) as caught:
        run("collector", given)
    assert (caught.value.code, caught.value.pointer) == (code, pointer)


@pytest.mark.usefixtures("own_registry")
def test_a_technique_without_slots_needs_no_picture(picture: Image) -> None:
    def from_nothing(params: Sample) -> Outcome:
        """Make a picture."""
        return Outcome((Picture("picture", picture),))

    registry.technique(
        "from-nothing", family="synthesis", runs="job", source="none", outputs={"a": "b"}
    )(from_nothing)
    assert run("from-nothing", {}).principal.name == "picture"
    with pytest.raises(MissingInput, match="it takes: none"):
        run("from-nothing", {"image": picture})


@pytest.mark.parametrize(("name", "what"), [("saliency", "model"), ("fast-style", "styles")])
def test_what_a_technique_works_with_must_be_there(name: str, what: str, picture: Image) -> None:
    with pytest.raises(MissingInput, match=f"{name} needs a {what}"):
        run(name, {"image": picture})


def test_an_unknown_technique_is_refused(picture: Image) -> None:
    with pytest.raises(UnknownName, match="did you mean saliency"):
        run("salience", {"image": picture})


def test_wrong_parameters_are_refused_before_anything_runs(picture: Image) -> None:
    with pytest.raises(InvalidParameters):
        run("saliency", {"image": picture}, {"target": -1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["picture", "heatmap", "table", "second"])
@pytest.mark.usefixtures("own_registry")
def test_a_result_that_is_not_finite_is_refused(kind: str, value: float, picture: Image) -> None:
    bad, good = torch.full((3, 24, 32), 0.5), Picture("good", picture)
    bad[1, 2, 3] = value
    artifacts = {
        "picture": (Picture("bad", Image(bad)),),
        "heatmap": (Heatmap("bad", bad[1], picture),),
        "table": (Table("bad", ({"a": 1.0}, {"a": value})),),
        "second": (good, Heatmap("bad", bad[1], picture)),
    }[kind]
    register(Outcome(artifacts))
    with pytest.raises(NotFinite, match="bad is not finite"):
        run("constant", {"image": picture})


@pytest.mark.usefixtures("own_registry")
def test_a_result_says_what_made_it(picture: Image) -> None:
    register(Outcome((Picture("good", picture),), {"found": 1}))
    animated = Image(picture.pixels, notes=("the picture is animated",))
    result = run("constant", {"image": animated}, {"count": 5}, seed=9)
    assert result.technique == "constant"
    assert result.params == Sample(count=5)
    assert result.seed == 9
    assert result.principal.name == "good"
    assert result.facts["found"] == 1
    assert result.facts["warnings"] == ["the picture is animated"]
    assert result.facts["versions"]["torch"] == torch.__version__
    assert result.facts["seconds"] >= 0
    assert "model" not in result.facts
    assert run("constant", {"image": picture}, Sample(count=5)).params == result.params


def test_a_result_names_the_network_and_its_weights(
    small_model: VisionModel, picture: Image
) -> None:
    facts = run("saliency", {"image": picture}, model=small_model).facts
    assert facts["model"] == {"name": "small", "weights_sha256": "0" * 64}
    assert "warnings" not in facts
