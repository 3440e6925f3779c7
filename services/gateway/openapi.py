"""The OpenAPI 3.1 document, computed from the routes and the registry."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import flask

import lantern
from lantern import registry
from lantern.artifact import FORMS, JSON, Rendering
from lantern.brought import Brought
from lantern.describe import schema
from lantern.image import READ
from lantern.networks import BROUGHT_ID
from lantern.records import RECORDS
from lantern.registry import Slot, Technique
from services.collection_record import COLLECTION_NAME
from services.gateway.declared_headers import OF_TECHNIQUES, header, headers_of, reads_etags
from services.gateway.gathering import FORM
from services.gateway.pictures import needs_picture, raw_slot
from services.gateway.reading import MOST_SEED, TOP_FIELDS
from services.gateway.schemas import SCHEMAS, STATES, WEBHOOK
from services.gateway.stream import LEAST_FPS, MOST_FPS, TECHNIQUE, USUAL_FPS
from services.record import JobOptions

routes = flask.Blueprint("openapi", __name__)
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
PICTURE = {"type": "string", "format": "binary"}
STREAM = "/v1/stream"
# What a result may be asked for as; which of these there are depends on its artifacts.
_ANSWERS: dict[str, Any] = {
    **{form: {"schema": PICTURE} for form in FORMS},
    JSON: {"schema": {"$ref": "#/components/schemas/Result"}},
}
_UNCHANGED = {"description": "the caller has it already"}
_LARGEST = (
    "At most {} bytes in all. Pictures that have more together are sent to /v1/files one by one "
    "and named by their ids."
)


@routes.get("/openapi.json")
def openapi_document() -> flask.Response:
    """Describe this interface as OpenAPI 3.1."""
    return flask.jsonify(build(flask.current_app))


def build(app: flask.Flask) -> dict[str, Any]:
    """Compute the document: one operation for each route, and one for each technique."""
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if rule.endpoint == "static" or rule.rule in ("/", "/camera", "/docs"):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if (path, method) != ("/v1/techniques/{name}", "POST"):
                view = app.view_functions[rule.endpoint]
                paths.setdefault(path, {})[method.lower()] = _operation(
                    rule.endpoint, method, path, view
                )
    for technique in registry.every():
        paths[f"/v1/techniques/{technique.name}"] = {"post": _technique(technique)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lantern",
            "version": lantern.__version__,
            "summary": "See what a vision network sees, and paint with it.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(endpoint: str, method: str, path: str, view: Any) -> dict[str, Any]:
    summary = (inspect.getdoc(view) or "").split("\n")[0]
    names = re.findall(r"\{(\w+)\}", path)
    operation: dict[str, Any] = {
        "operationId": endpoint.replace(".", "_") + "_" + method.lower(),
        "summary": summary,
        "tags": [endpoint.split(".", maxsplit=1)[0]],
        "parameters": [
            *map(_in_path, names),
            *_QUERIES.get((path, method), []),
            *(_stream_queries() if path == STREAM else []),
            *headers_of(path, method),
        ],
        "responses": _STREAM_RESPONSES if path == STREAM else _responses(path, method),
    }
    if content := _BODIES.get(path) if method == "POST" else None:
        operation["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": dict(shape)} for kind, shape in content.items()},
        }
    return operation


def _in_path(name: str) -> dict[str, Any]:
    kind = {"type": "integer", "minimum": 0} if name == "step" else {"type": "string"}
    what = {
        "step": "a step of `preview` events",
        "job_id": "a job's id",
        "picture": "its name; folders in it are parted by slashes",
    }.get(name, "its name or id")
    return {"name": name, "in": "path", "required": True, "schema": kind, "description": what}


def _query(name: str, kind: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": dict(kind), "description": description}


_BODIES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "/v1/files": {
        **dict.fromkeys(READ.values(), PICTURE),
        FORM: {
            "type": "object",
            "properties": {"file": {**PICTURE, "description": "its name does not matter"}},
            "required": ["file"],
        },
    },
    "/v1/collections": {
        JSON: {
            "type": "object",
            "properties": {"name": {"type": "string", "pattern": f"^{COLLECTION_NAME.pattern}$"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "/v1/models": {
        FORM: {
            "type": "object",
            "properties": {"model": schema(Brought), "weights": PICTURE},
            "required": ["model", "weights"],
            "additionalProperties": False,
        }
    },
    "/v1/collections/{name}/images": {
        FORM: {"type": "object", "additionalProperties": {"type": "array", "items": PICTURE}},
        **dict.fromkeys(("application/zip", "application/x-tar", "application/gzip"), PICTURE),
    },
}
# What some routes also answer, by their ends.
_ALSO = {
    "/cancel": ("200", "it had ended before"),
    "/images": ("200", "it had these pictures before"),
    "/ready": ("503", "a part is missing"),
    "/events": ("204", "all of them were received, and no more will come"),
}
_STREAM_RESPONSES = {
    "101": {
        "description": "a WebSocket: frames as binary messages, each answered by the painted one; "
        "texts are changed parameters as JSON, answered by `rate` or `problem`"
    },
    "426": {"description": "the request is no handshake", "content": PROBLEM},
    "default": {"description": "a problem", "content": PROBLEM},
}
_PAGE = _query("cursor", {"type": "string"}, "`next` of the page before")
_QUERIES = {
    ("/v1/collections/{name}", "GET"): [
        _query(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
            "pictures a page",
        ),
        _PAGE,
    ],
    ("/v1/jobs", "GET"): [
        _query(
            "limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "jobs a page"
        ),
        _PAGE,
        _query("status", STATES, "only these"),
        _query("technique", {"type": "string"}, "only these"),
    ],
    ("/v1/jobs/{job_id}", "GET"): [
        _query(
            "wait",
            {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
            "seconds to wait for its end",
        )
    ],
}


def _stream_queries() -> list[dict[str, Any]]:
    technique = registry.find(TECHNIQUE)
    params = dict(schema(technique.params_type)["properties"]) | schema(Rendering)["properties"]
    rate = {"type": "number", "minimum": LEAST_FPS, "maximum": MOST_FPS, "default": USUAL_FPS}
    return [
        _query("fps", rate, "frames a second; pictures are as large as it allows, `size` at most"),
        *(_technique_query(name, kind) for name, kind in params.items()),
    ]


def _responses(path: str, method: str) -> dict[str, Any]:
    success = {"POST": "201" if path in _BODIES else "202", "DELETE": "204"}.get(method, "200")
    content: dict[str, Any] = {JSON: {"schema": {"type": ["object", "array"]}}}
    if re.fullmatch(r"/v1/jobs/\{job_id\}(/cancel|/pause|/resume)?", path) and method != "DELETE":
        content = {JSON: {"schema": {"$ref": "#/components/schemas/Job"}}}
    elif (path, method) == ("/v1/collections", "POST") or re.fullmatch(
        r"/v1/collections/\{name\}(/images)?", path
    ):
        content = {JSON: {"schema": {"$ref": "#/components/schemas/Collection"}}}
    elif path.endswith("/events"):
        content = {"text/event-stream": {"schema": {"type": "string"}}}
    elif path.endswith("/result"):
        content = _ANSWERS
    elif "/artifacts/{" in path:
        content = _ANSWERS | content
    elif path.endswith("/thumbnail") or re.search(r"/(previews|files|samples|images)/\{", path):
        content = {kind: {"schema": PICTURE} for kind in READ.values()}
    elif path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    ok: dict[str, Any] = {"description": "success"}
    if success != "204":
        ok["content"] = content
    responses = {success: ok, "default": {"description": "a problem", "content": PROBLEM}}
    if method == "GET" and reads_etags(path):
        responses["304"] = _UNCHANGED
    for end, (status, what) in _ALSO.items():
        if path.endswith(end):
            responses[status] = ({} if status == "204" else ok) | {"description": what}
    return responses


def _technique(technique: Technique) -> dict[str, Any]:
    params = _parameters(technique)
    form = {name: _form_part(slot) for name, slot in technique.inputs.items()}
    body = {"type": "object", "properties": form | params, "required": _required(technique)}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": body},
        JSON: {"schema": _json_body(technique)},
    }
    if raw_slot(technique):
        content |= {kind: {"schema": PICTURE} for kind in READ.values()}
    return {
        "operationId": technique.name,
        "summary": technique.summary,
        "description": f"{technique.details}\n\nSource: {technique.source}".strip(),
        "tags": [technique.family],
        "parameters": [
            *(_technique_query(name, kind) for name, kind in params.items()),
            *map(header, OF_TECHNIQUES),
        ],
        "requestBody": {
            "description": _LARGEST.format(flask.current_app.config["MAX_CONTENT_LENGTH"]),
            "required": needs_picture(technique),
            "content": content,
        },
        "responses": _technique_responses(technique),
    }  # fmt: skip


def _required(technique: Technique) -> list[str]:
    return [name for name, slot in technique.inputs.items() if slot.is_required]


def _form_part(slot: Slot) -> dict[str, Any]:
    """Describe the file part of a slot; that of several pictures is repeated."""
    if not slot.takes_several:
        return {**PICTURE, "description": slot.description}
    return {**_several(PICTURE, slot), "description": slot.description}


def _several(one: Mapping[str, Any], slot: Slot) -> dict[str, Any]:
    return {"type": "array", "items": dict(one), "minItems": slot.least, "maxItems": slot.most}


def _named(slot: Slot) -> dict[str, Any]:
    """Describe a slot's entry in JSON."""
    one = {"type": "string", "description": "a file id or a data:image/...;base64 URL"}
    if not slot.takes_several:
        return one
    return {"oneOf": [_several(one, slot), one] if slot.least < 2 else [_several(one, slot)]}


def _technique_query(name: str, kind: Mapping[str, Any]) -> dict[str, Any]:
    query = _query(name, kind, kind.get("description", ""))
    return query | ({"style": "form", "explode": False} if kind.get("type") == "array" else {})


def _parameters(technique: Technique) -> dict[str, Any]:
    params: dict[str, Any] = dict(schema(technique.params_type).get("properties", {}))
    if technique.takes_model:
        params["model"] = {
            "anyOf": [
                {"enum": list(RECORDS)},
                {"type": "string", "pattern": f"^{BROUGHT_ID.pattern}$"},
            ],
            "default": technique.default_model,
            "description": "the network; a built-in one, or the id of one you have brought",
        }
    if technique.takes_seed:
        params["seed"] = {
            "type": "integer", "minimum": 0, "maximum": MOST_SEED, "default": 0,
            "description": "the same seed gives the same result",
        }  # fmt: skip
    for kind in (Rendering, JobOptions):
        params |= schema(kind)["properties"]
    return params


def _json_body(technique: Technique) -> dict[str, Any]:
    params = _parameters(technique)
    return {
        "type": "object",
        "properties": {
            "inputs": {
                "type": "object",
                "properties": {name: _named(slot) for name, slot in technique.inputs.items()},
                "required": _required(technique),
            },
            "params": {"type": "object", "properties": params},
            **{name: params[name] for name in TOP_FIELDS if name in params},
            "webhook": WEBHOOK,
        },
        "required": ["inputs"] if needs_picture(technique) else [],
    }


def _technique_responses(technique: Technique) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "202": {
            "description": "a job was made of it",
            "headers": {"Location": {"schema": {"type": "string"}}},
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Job"}}},
        },
        "default": {"description": "a problem", "content": PROBLEM},
    }
    responses["200"] = {"description": "the result", "content": _ANSWERS}
    responses["304"] = _UNCHANGED
    return responses
