"""The registry in plain data: what the API, its document, the forms and the docs are made from."""

from __future__ import annotations

from typing import Any

from lantern import registry
from lantern.artifact import Rendering
from lantern.params import Params
from lantern.records import RECORDS
from lantern.registry import Slot, Technique


def describe(technique: Technique) -> dict[str, Any]:
    """Describe one technique; `params` and `rendering` are JSON Schemas."""
    return {
        "name": technique.name,
        "title": technique.title,
        "summary": technique.summary,
        "details": technique.details,
        "family": technique.family,
        "runs": technique.runs,
        "inputs": [_input(name, slot) for name, slot in technique.inputs.items()],
        "params": schema(technique.params_type),
        "model": {"default": technique.default_model, "choices": list(RECORDS)}
        if technique.takes_model
        else None,
        "seeded": technique.takes_seed,
        "rendering": schema(Rendering),
        "outputs": [
            {"name": name, "description": what} for name, what in technique.outputs.items()
        ],
        "source": technique.source,
    }


def _input(name: str, slot: Slot) -> dict[str, Any]:
    return {
        "name": name,
        "description": slot.description,
        "required": slot.is_required,
        "least": slot.least,
        "most": slot.most,
    }


def describe_all() -> list[dict[str, Any]]:
    """Describe every technique, by name."""
    return [describe(technique) for technique in registry.every()]


def schema(kind: type[Params]) -> dict[str, Any]:
    """Return the JSON Schema of a record of parameters, self-contained."""
    made = kind.model_json_schema(mode="serialization")
    for name, entry in made.get("properties", {}).items():
        entry["title"] = name
    made["additionalProperties"] = False
    made.pop("required", None)
    return made
