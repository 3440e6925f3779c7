"""A technique that says too little of itself is refused at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field

from lantern import registry
from lantern.artifact import Outcome, Table
from lantern.errors import UnknownName
from lantern.image import Image
from lantern.params import Params
from lantern.progress import Progress
from lantern.registry import Count, Slot, technique
from lantern.styles.library import StyleLibrary
from lantern.vision_model import VisionModel

pytestmark = pytest.mark.usefixtures("own_registry")


class Good(Params):
    amount: float = Field(0.5, ge=0, lt=1, description="how much")
    count: int | None = Field(None, ge=0, le=9, description="how many")
    kind: Literal["a", "b"] = Field("a", description="which")
    word: str = Field("", max_length=9, description="what")
    flag: bool = Field(False, description="whether")
    several: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(
        (), max_length=3, description="some"
    )


class Undescribed(Params):
    amount: float = Field(0.5, ge=0, le=1)


class Unset(Params):
    amount: float = Field(ge=0, le=1, description="how much")


class NoUpperBound(Params):
    amount: float = Field(0.5, ge=0, description="how much")


class NoLowerBound(Params):
    amount: int | None = Field(None, le=5, description="how much")


class Endless(Params):
    word: str = Field("", description="what")


class EndlessList(Params):
    several: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field((), description="some")


class UnboundedItems(Params):
    several: tuple[int, ...] = Field((), max_length=3, description="some")


class UnboundedPair(Params):
    pair: tuple[Annotated[int, Field(ge=0, le=9)], int] = Field((0, 0), description="two")


class TakesSeed(Params):
    seed: int = Field(0, ge=0, le=9, description="seed")


class TakesQuality(Params):
    quality: int = Field(0, ge=0, le=9, description="quality")


FULL: dict[str, Any] = {
    "family": "inference",
    "runs": "interactive",
    "source": "a book",
    "outputs": {"rows": "rows"},
}


def outcome() -> Outcome:
    return Outcome((Table("rows", ({"a": 1},)),))


def function_taking(params_type: type[Params]) -> Callable[..., Outcome]:
    def some_name(image: Any, params: Any) -> Outcome:
        """Do something."""
        return outcome()

    some_name.__annotations__ = {
        "image": Annotated[Image, "picture"],
        "params": params_type,
        "return": Outcome,
    }
    return some_name


@pytest.mark.parametrize(
    ("params_type", "reason"),
    [
        (Undescribed, "parameter amount: has no description"),
        (Unset, "parameter amount: has no default"),
        (NoUpperBound, "parameter amount: a number needs a lower and an upper bound"),
        (NoLowerBound, "parameter amount: a number needs a lower and an upper bound"),
        (Endless, "parameter word: a text needs a greatest length"),
        (EndlessList, "parameter several: a list needs a greatest length"),
        (UnboundedItems, "parameter several: a number needs"),
        (UnboundedPair, "parameter pair: a number needs"),
        (TakesSeed, "parameter seed: the name is reserved"),
        (TakesQuality, "parameter quality: the name is reserved"),
    ],
)
def test_parameters_that_say_too_little_are_refused(params_type: type[Params], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        technique("some-name", **FULL)(function_taking(params_type))
    assert "some-name" not in registry._techniques


def test_a_function_of_another_name_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a function called another_name"):
        technique("another-name", **FULL)(function_taking(Good))


def test_a_function_without_a_docstring_is_refused() -> None:
    function = function_taking(Good)
    function.__doc__ = None
    with pytest.raises(TypeError, match="needs a docstring"):
        technique("some-name", **FULL)(function)


@pytest.mark.parametrize("missing", [{"source": ""}, {"outputs": {}}])
def test_a_technique_without_source_or_outputs_is_refused(missing: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="needs a docstring, a source and named outputs"):
        technique("some-name", **FULL | missing)(function_taking(Good))


@pytest.mark.parametrize("hint", [int, Image, list[int], Annotated[int, "number"]])
def test_arguments_that_nothing_is_known_of_are_refused(hint: Any) -> None:
    function = function_taking(Good)
    function.__annotations__["more"] = hint
    with pytest.raises(TypeError, match="nothing is known to inject for the argument more"):
        technique("some-name", **FULL)(function)


def test_a_name_is_given_once() -> None:
    function = function_taking(Good)
    function.__name__ = "classify"
    with pytest.raises(TypeError, match="two techniques are called classify"):
        technique("classify", **FULL)(function)
    assert registry.find("classify").source != "a book"


def whole_story(
    net: VisionModel,
    first: Annotated[Image, "one picture"],
    second: Annotated[Image, "another"],
    shelf: StyleLibrary,
    watch: Progress,
    chance: torch.Generator,
    params: Good,
) -> Outcome:
    """Tell a story.

    In more words,
    on two lines.
    """
    return outcome()


def test_what_a_technique_says_of_itself_is_found() -> None:
    assert technique("whole-story", **FULL)(whole_story) is whole_story
    made = registry.find("whole-story")
    assert made.title == "Whole story"
    assert made.summary == "Tell a story."
    assert made.details == "In more words,\non two lines."
    assert dict(made.inputs) == {
        "first": Slot("one picture", least=1, most=1),
        "second": Slot("another", least=1, most=1),
    }
    assert made.params_type is Good
    assert dict(made.injected) == {
        "net": "model", "shelf": "styles", "watch": "progress", "chance": "generator",
    }  # fmt: skip
    assert (made.takes_model, made.takes_seed, made.takes_progress) == (True, True, True)
    assert "whole-story" in [found.name for found in registry.every()]


def function_with(*hints: Any, name: str = "shown") -> Callable[..., Outcome]:
    """Make a technique whose only inputs are annotated so."""
    function = function_taking(Good)
    del function.__annotations__["image"]
    function.__annotations__ |= {name * (n + 1): hint for n, hint in enumerate(hints)}
    return function


def test_slots_are_required_optional_or_for_several() -> None:
    several = tuple[Image, ...]
    function = function_with(
        Annotated[Image, "one"],
        Annotated[Image | None, "perhaps one"],
        Annotated[several, "some", Count(0, 3)],
        Annotated[several, "a set", Count(2, 2)],
    )
    technique("some-name", **FULL)(function)
    one, optional, some, pair = registry.find("some-name").inputs.values()
    assert one == Slot("one", least=1, most=1)
    assert optional == Slot("perhaps one", least=0, most=1)
    assert some == Slot("some", least=0, most=3)
    assert pair == Slot("a set", least=2, most=2)
    assert [s.is_required for s in (one, optional, some, pair)] == [True, False, False, True]
    assert [s.takes_several for s in (one, optional, some, pair)] == [False, False, True, True]


def test_a_technique_may_take_no_picture() -> None:
    technique("some-name", **FULL)(function_with())
    assert registry.find("some-name").inputs == {}


@pytest.mark.parametrize(
    "hint",
    [
        Annotated[tuple[Image, ...], "unbounded"],
        Annotated[tuple[Image, ...], "not bounds", (1, 2)],
        Annotated[Image, "one", Count(1, 2)],
        Annotated[Image | None, "one", Count(0, 2)],
    ],
)
def test_a_count_belongs_to_several_pictures_and_to_nothing_else(hint: Any) -> None:
    with pytest.raises(TypeError, match="input shown: several pictures, and only these, need"):
        technique("some-name", **FULL)(function_with(hint))


@pytest.mark.parametrize("bounds", [(-1, 2), (3, 2), (0, 1), (1, 1), (0, 0), (0, 65)])
def test_a_count_is_of_several_pictures(bounds: tuple[int, int]) -> None:
    with pytest.raises(TypeError, match="0 <= least <= most, most 2 to 64"):
        Count(*bounds)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("image2", "may not end with a digit"),
        ("seed", "is taken"),
        ("params", "is taken"),
        ("quality", "is taken"),
        ("output", "is taken"),
        ("amount", "is taken"),
    ],
)
def test_a_slot_has_a_name_of_its_own(name: str, reason: str) -> None:
    function = function_with(Annotated[Image, "one"], name=name)
    function.__annotations__["chosen"] = Good
    with pytest.raises(TypeError, match=f"input {name}: .*{reason}"):
        technique("some-name", **FULL)(function)


def test_a_title_may_be_written_as_its_authors_write_it() -> None:
    technique("whole-story", title="wholeStory", **FULL)(whole_story)
    assert registry.find("whole-story").title == "wholeStory"


def test_a_technique_without_parameters_of_its_own() -> None:
    function = function_taking(Params)
    technique("some-name", **FULL)(function)
    made = registry.find("some-name")
    assert made.params_type is Params
    assert (made.takes_model, made.takes_seed, made.takes_progress) == (False, False, False)


def test_an_unknown_technique_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean grad-cam") as caught:
        registry.find("gradcam")
    assert caught.value.code == "unknown-technique"
    assert "style-transfer" in caught.value.detail


def test_techniques_come_by_name() -> None:
    names = [found.name for found in registry.every()]
    assert names == sorted(names)
    assert {"classify", "deep-dream", "fast-style", "grad-cam", "saliency"} <= set(names)
