"""Errors say what to do and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from lantern import errors
from lantern.artifact import NotAcceptable
from lantern.errors import InvalidParameter, InvalidParameters, LanternError, one_of
from lantern.styles.files import DamagedStyle

KINDS = [
    InvalidParameter,
    errors.UnknownName,
    errors.BadImage,
    errors.MissingInput,
    errors.WeightsMissing,
    errors.NotFinite,
    NotAcceptable,
    DamagedStyle,
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind: type[LanternError]) -> None:
    for error in (kind("what and how", pointer="/params/x", code="special"), kind("plain")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.detail, again.pointer, again.code) == (
            error.detail, error.pointer, error.code,
        )  # fmt: skip
        assert str(again) == error.detail


def test_several_errors_survive_pickling_together() -> None:
    parts = [InvalidParameter("one", pointer="/params/a"), InvalidParameter("two", code="x")]
    again = pickle.loads(pickle.dumps(InvalidParameters(parts)))
    assert again.detail == "one; two"
    assert again.pointer == "/params/a"
    assert [(p.detail, p.code) for p in again.problems] == [
        ("one", "invalid-parameter"), ("two", "x"),
    ]  # fmt: skip


def test_every_kind_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert LanternError.code not in codes


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    error = one_of("layer", "feature.1", ["features.1", "head"], pointer="/params/layer")
    assert (
        error.detail == "no such layer; did you mean features.1? the layers are: features.1, head"
    )
    assert (error.code, error.pointer) == ("unknown-layer", "/params/layer")
    assert "did you mean" not in one_of("layer", "zzz", ["features.1"]).detail


def test_a_long_list_of_names_is_cut() -> None:
    detail = one_of("layer", "zzz", [f"block.{n:03}" for n in range(500)]).detail
    assert detail.endswith("block.023, ...")
    assert len(detail) < 400
