"""The documentation page of each technique, written from the registry."""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from typing import Any

from lantern import registry
from lantern.describe import describe
from lantern.registry import Technique
from lantern.techniques.target import LARGEST_MAP
from services.settings import Settings

# What holds for the maps of all techniques.
MAPS = f"""\
A map lies over the picture and has at most {LARGEST_MAP} px a side: the map of a larger picture is
smaller than it, and the fact `map_size` says its height and width. The raw arrays
(`application/x-npz`) have the map under its name and, as `heatmap.grid`, the numbers it was made
from, on the network's own grid."""


def write_pages(folder: Path) -> list[Path]:
    """Write the settings, and a page for each technique with an index; return what was written."""
    (folder / "techniques").mkdir(parents=True, exist_ok=True)
    techniques = list(registry.every())
    pages = {f"techniques/{technique.name}.md": page(technique) for technique in techniques}
    pages["techniques/README.md"] = index(techniques)
    pages["settings.md"] = settings_page()
    for name, text in pages.items():
        (folder / name).write_text(text)
    return [folder / name for name in pages]


def settings_page() -> str:
    """Return the table of all settings, from their declaration."""
    rows = ["# Settings", "", "| variable | default | what it is |", "|---|---|---|"]
    (declared,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(declared, ast.ClassDef)
    for line, text in itertools.pairwise(declared.body):
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr):
            name = ast.unparse(line.target)
            default = getattr(Settings(), name)
            shown = Path(default).name + "/" if name == "model_store" else default
            meaning = " ".join(ast.literal_eval(text.value).split())
            rows.append(f"| `LANTERN_{name.upper()}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


def index(techniques: list[Technique]) -> str:
    """Return the list of all techniques."""
    rows = [
        f"| [{t.name}]({t.name}.md) | {t.family} | {t.runs} | {t.summary} |" for t in techniques
    ]
    head = [
        "# Techniques",
        "",
        MAPS,
        "",
        "| name | family | runs as | what it does |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def page(technique: Technique) -> str:
    """Return the page of one technique."""
    facts = describe(technique)
    parts = [
        f"# {facts['title']}",
        facts["summary"],
        facts["details"],
        f"Source: {facts['source']}",
        "## Inputs\n\n" + _inputs(facts["inputs"]),
        "## Results\n\n" + _list(facts["outputs"]),
        "## Parameters\n\n" + _parameters(facts),
        "## Calling it\n\n" + _calls(technique),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _inputs(entries: list[dict[str, Any]]) -> str:
    shown = [
        {"name": entry["name"], "description": entry["description"] + _count(entry)}
        for entry in entries
    ]
    return _list(shown) or "None: it makes pictures from nothing."


def _count(entry: dict[str, Any]) -> str:
    if entry["most"] > 1:
        return f"; {entry['least']} to {entry['most']} pictures"
    return "" if entry["required"] else "; optional"


def _list(entries: list[dict[str, str]]) -> str:
    return "\n".join(f"- `{entry['name']}`: {entry['description']}" for entry in entries)


def _parameters(facts: dict[str, Any]) -> str:
    rows = ["| name | default | may be | what it means |", "|---|---|---|---|"]
    for name, schema in facts["params"].get("properties", {}).items():
        rows.append(
            f"| `{name}` | {_default(schema)} | {_range(schema)} | {schema['description']} |"
        )
    if facts["model"]:
        rows.append(
            f"| `model` | {facts['model']['default']} | a name of `GET /v1/models` | the network |"
        )
    if facts["seeded"]:
        rows.append("| `seed` | 0 | 0 to 2147483647 | the same seed gives the same result |")
    return "\n".join(rows)


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "chosen" if default in (None, [], ()) else str(default)


def _range(schema: dict[str, Any]) -> str:
    shape = next((s for s in schema.get("anyOf", ()) if s.get("type") != "null"), schema)
    if "enum" in shape:
        return ", ".join(map(str, shape["enum"]))
    low = shape.get("minimum", shape.get("exclusiveMinimum"))
    high = shape.get("maximum", shape.get("exclusiveMaximum"))
    unit = f" {schema['unit']}" if "unit" in schema else ""
    if low is not None:
        return f"{'above ' if 'exclusiveMinimum' in shape else ''}{low:g} to {high:g}{unit}"
    return {"boolean": "true, false", "array": "a list", "string": "a text"}.get(
        shape.get("type", ""), ""
    )


def _calls(technique: Technique) -> str:
    files, parts = [technique.name], ["curl"]
    for name, slot in technique.inputs.items():
        pictures = [f"{name}-{n + 1}.jpg" if n else f"{name}.jpg" for n in range(slot.least)]
        parts += [f"-F {name}=@{picture}" for picture in pictures]
        by_name = slot.takes_several and pictures and name != technique.only_required
        several = f"--{name.replace('_', '-')}" if by_name else ""
        files += [*filter(None, [several]), *pictures]
    if len(parts) == 1:
        parts += ["-X POST"]
    return (
        f"```\nlantern {' '.join(files)} -o out.png\n"
        f"{' '.join(parts)} http://127.0.0.1:8000/v1/techniques/{technique.name}\n```\n\n"
        f"Over HTTP {_after(technique)}."
    )


def _after(technique: Technique) -> str:
    """Say what a caller gets."""
    if technique.runs == "job":
        return "follow `GET /v1/jobs/{id}/events`"
    kinds = {"a call of much work": technique.work is not None, "an animation": technique.animates}
    long = " or ".join(kind for kind, may_come in kinds.items() if may_come)
    return "the answer is the result" + (f"; {long} becomes a job" if long else "")
