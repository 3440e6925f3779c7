"""What is said of techniques is valid and holds."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest

from lantern import registry
from lantern.artifact import Rendering
from lantern.describe import describe, describe_all, schema
from lantern.registry import Slot, Technique

EVERY = list(registry.every())


@pytest.mark.parametrize("technique", EVERY, ids=lambda t: t.name)
def test_schemas_are_valid_and_take_the_defaults(technique: Technique) -> None:
    document = describe(technique)
    json.dumps(document, allow_nan=False)
    for part, kind in (("params", technique.params_type), ("rendering", Rendering)):
        made = document[part]
        jsonschema.Draft202012Validator.check_schema(made)
        jsonschema.validate(kind().model_dump(mode="json"), made)
        jsonschema.validate({}, made)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"no_such_parameter": 1}, made)
        assert set(made.get("properties", {})) == set(kind.model_fields)
        assert "$ref" not in json.dumps(made)


@pytest.mark.parametrize("technique", EVERY, ids=lambda t: t.name)
def test_a_description_has_what_a_page_needs(technique: Technique) -> None:
    document = describe(technique)
    assert document["name"] == technique.name
    assert document["title"]
    assert document["summary"].endswith(".")
    assert document["source"]
    assert all(entry["description"] for entry in document["inputs"] + document["outputs"])
    assert (document["model"] is None) == (not technique.takes_model)
    assert document["seeded"] == technique.takes_seed
    if document["model"]:
        assert document["model"]["default"] in document["model"]["choices"]


def test_all_are_described() -> None:
    assert [d["name"] for d in describe_all()] == [t.name for t in EVERY]


def test_inputs_say_how_many_pictures_they_take() -> None:
    slots = {
        "image": Slot("the photograph"),
        "mask": Slot("where", least=0),
        "style": Slot("paintings", least=2, most=5),
    }
    made = dataclasses.replace(registry.find("saliency"), inputs=slots)
    assert describe(made)["inputs"] == [
        {"name": "image", "description": "the photograph", "required": True, "least": 1, "most": 1},
        {"name": "mask", "description": "where", "required": False, "least": 0, "most": 1},
        {"name": "style", "description": "paintings", "required": True, "least": 2, "most": 5},
    ]


def test_fields_keep_their_own_names() -> None:
    assert {name: entry["title"] for name, entry in schema(Rendering)["properties"].items()} == {
        name: name for name in Rendering.model_fields
    }
