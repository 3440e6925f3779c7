"""Reading a call from a request: raw picture, multipart form or JSON."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flask
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import RequestEntityTooLarge

from lantern.artifact import FORMS, JSON, Rendering
from lantern.call import ANYTHING, Call, number
from lantern.errors import InvalidParameter, MissingInput
from lantern.image import READ
from lantern.records import DEFAULT_MODEL
from lantern.registry import Technique
from lantern.run import check_inputs, validate
from services import webhooks
from services.gateway.context import current
from services.gateway.networks import find_network
from services.gateway.pictures import needs_picture, of_body, of_json
from services.gateway.problems import Problem
from services.record import JobOptions

MOST_SEED = 2**31 - 1
MOST_DEPTH = 16
# What a JSON body names beside its inputs and parameters.
TOP_FIELDS = (
    *("seed", "model"),
    *(name for name in JobOptions.model_fields if not name.startswith("webhook_")),
)
RAW_TYPES = (*READ.values(), "application/octet-stream", "")


@dataclass(frozen=True)
class Given:
    """What a request said, before it is checked against the technique; `text` for bare strings.

    `inputs` are the pictures of each slot, in their order.
    """

    inputs: Mapping[str, Sequence[bytes]]
    params: Mapping[str, Any]
    text: bool


def read_call(technique: Technique) -> tuple[Call, JobOptions]:
    """Read and check a call and how to run it as a job; only the pixels remain to be checked.

    Raises:
        Problem: the request is malformed.
        LanternError: an input or parameter is wrong.
    """
    given = _read_body(technique)
    params = dict(given.params)
    model = params.pop("model", technique.default_model if technique.takes_model else None)
    seed = _seed(params.pop("seed", 0), text=given.text)
    rendering = {name: params.pop(name) for name in Rendering.model_fields if name in params}
    options = {name: params.pop(name) for name in JobOptions.model_fields if name in params}
    if model is not None:
        _check_model(technique, model)
    checked = validate(technique.params_type, params, text=given.text)
    rendered = validate(Rendering, rendering, text=given.text)
    check_inputs(technique, given.inputs)
    call = Call(
        technique=technique.name,
        inputs=number(given.inputs),
        params=checked.model_dump(mode="json"),
        rendering=rendered.model_dump(mode="json"),
        model=model or DEFAULT_MODEL,
        seed=seed,
        accept=accepted(flask.request.accept_mimetypes),
    )
    return call, _options(options, text=given.text)


def _options(raw: Mapping[str, Any], *, text: bool) -> JobOptions:
    options: JobOptions = validate(JobOptions, raw, text=text)
    if options.webhook_secret:
        webhooks.check_secret(options.webhook_secret)
    if options.webhook_url:
        loopback = current().settings.webhook_loopback
        webhooks.check_target(options.webhook_url, loopback=loopback)
    return options


def whole_body() -> bytes:
    """Read the body; the server has it in memory and gives it without a copy."""
    limit = flask.request.max_content_length or 0
    if (flask.request.content_length or 0) > limit:
        raise RequestEntityTooLarge
    body: bytes = flask.request.environ["wsgi.input"].read(limit + 1)
    if len(body) > limit:
        raise RequestEntityTooLarge
    return body


def accepted(header: MIMEAccept) -> tuple[str, ...]:
    """Return the acceptable forms we have, by preference; anything where none is named.

    Raises:
        Problem: none of the acceptable forms exists here.
    """
    if not header:
        return (ANYTHING,)
    known = {*FORMS, ANYTHING, "image/*", "application/*"}
    plain = without_parameters(header)
    refused = {kind for kind, quality in plain if quality <= 0}
    wanted: dict[str, None] = {}
    for kind, quality in plain:
        if kind in known and quality > 0:
            wanted |= dict.fromkeys(_expanded(kind, refused))
    if not wanted:
        forms = ", ".join(FORMS)
        raise Problem(
            406, "not-acceptable", f"none of the forms you accept exists; there are {forms}"
        )
    return tuple(wanted)


def without_parameters(header: MIMEAccept) -> MIMEAccept:
    """Return the media types in small letters, without what else is said of them but `q`."""
    qualities: dict[str, float] = {}
    for kind, quality in header:
        name = kind.partition(";")[0].strip().lower()
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return MIMEAccept(qualities.items())


def _expanded(kind: str, refused: set[str]) -> list[str]:
    """Spell a wildcard out where some of what it covers is refused, else leave it.

    Left, it means what an artifact is by itself; documents and arrays there are of others too.
    """
    covered = [form for form in FORMS if fnmatch.fnmatchcase(form, kind)]
    if refused.intersection(covered):
        return [form for form in covered if form not in refused]
    return [kind, *covered] if kind == "application/*" else [kind]


def check_encoding() -> None:
    """Refuse compressed bodies.

    Raises:
        Problem: the body has a Content-Encoding.
    """
    if flask.request.headers.get("Content-Encoding", "identity") != "identity":
        raise Problem(415, "unsupported-media-type", "send the body without a Content-Encoding")


def _read_body(technique: Technique) -> Given:
    kind = flask.request.mimetype
    check_encoding()
    if kind == "multipart/form-data":
        return _read_form(technique)
    if kind == JSON:
        return _read_json(technique)
    if kind in RAW_TYPES or kind == "application/x-www-form-urlencoded":
        return _read_raw(technique)
    raise Problem(
        415, "unsupported-media-type",
        f"send a picture ({', '.join(READ.values())}), multipart/form-data or application/json",
    )  # fmt: skip


def _read_raw(technique: Technique) -> Given:
    body = whole_body()
    if not body and needs_picture(technique):
        raise Problem(400, "empty-body", "the body is empty; send a picture's bytes")
    return Given(of_body(technique, body), _single(flask.request.args), text=True)


def check_boundary() -> None:
    """Make sure that a form says what parts its body.

    Raises:
        Problem: it does not.
    """
    if "boundary" not in flask.request.mimetype_params:
        raise Problem(400, "malformed", "the multipart body has no boundary")


@contextlib.contextmanager
def limits_of_forms() -> Iterator[None]:
    """Tell the limits of a form's parts from that of the whole request.

    Raises:
        Problem: there are too many parts, or a field is too large.
        RequestEntityTooLarge: the request is.
    """
    request = flask.request
    try:
        yield
    except RequestEntityTooLarge as error:
        if (request.content_length or 0) > (request.max_content_length or 0):
            raise
        raise Problem(
            413, "form-too-large",
            f"a form may have {request.max_form_parts} parts, and a field that is no file "
            f"{request.max_form_memory_size} bytes; send pictures and weights as files, in parts "
            "with a filename",
        ) from error  # fmt: skip


def _read_form(technique: Technique) -> Given:
    request = flask.request
    check_boundary()
    inputs: dict[str, list[bytes]] = {}
    with limits_of_forms():
        fields = _single(request.form)
    for slot in technique.inputs.keys() & fields.keys() - technique.params_type.model_fields.keys():
        raise MissingInput(
            "the part is no file; send the picture in a part with a filename",
            code="not-a-file", pointer=f"/inputs/{slot}",
        )  # fmt: skip
    for slot, part in request.files.items(multi=True):
        data = part.read()
        if slot == "params":  # browsers send a JSON part as a file
            fields["params"] = data.decode("utf-8", "replace")
        elif data or part.filename:  # a browser's form sends neither where no file was chosen
            inputs.setdefault(slot, []).append(data)
    if "params" in fields:
        params = json_object(fields.pop("params"), "the params part")
        if fields:
            raise Problem(
                422, "mixed-parameters", "send parameters as fields or as one params part, not both"
            )
        return Given(inputs, params, text=False)
    if not inputs and not fields and needs_picture(technique):
        raise Problem(400, "empty-body", "the form is empty; send a file for each input")
    return Given(inputs, _single(request.args) | fields, text=True)


def _read_json(technique: Technique) -> Given:
    document = json_object(whole_body(), "the body")
    if set(document) - {"inputs", "params", "webhook", *TOP_FIELDS}:
        raise Problem(
            422, "unknown-field",
            f"the fields are inputs, params, webhook, {', '.join(TOP_FIELDS)}; leave out others",
        )  # fmt: skip
    inputs, params = document.get("inputs", {}), document.get("params", {})
    if not isinstance(inputs, dict) or not isinstance(params, dict):
        raise Problem(422, "malformed", "inputs and params must be objects")
    check_inputs(technique, inputs)
    params = params | {name: document[name] for name in TOP_FIELDS if name in document}
    params |= _webhook(document.get("webhook"))
    return Given(of_json(inputs), params, text=False)


def _webhook(given: Any) -> dict[str, Any]:
    """Spell the webhook object as the parameters of a form."""
    if given is None:
        return {}
    if not isinstance(given, dict) or set(given) - {"url", "secret"} or "url" not in given:
        raise InvalidParameter(
            "webhook is an object with a url and, if you like, a secret", pointer="/webhook"
        )
    return {f"webhook_{name}": value for name, value in given.items()}


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Read a JSON object that names no key twice and is not nested deeply.

    Raises:
        Problem: it is none.
    """
    try:
        document = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Problem(
            400, "malformed", f"{what} is not valid JSON, or names a key twice"
        ) from error
    if not isinstance(document, dict):
        raise Problem(422, "malformed", f"{what} must be a JSON object")
    if _is_deeper(document, MOST_DEPTH):
        raise Problem(422, "malformed", f"{what} is nested too deeply")
    return document


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _is_deeper(value: Any, levels: int) -> bool:
    """Tell whether values lie in one another more than `levels` deep; looks no deeper than that."""
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(inner, levels - 1) for inner in nested)


def _single(values: Any) -> dict[str, str]:
    """Take each name's value; a name given twice is ambiguous."""
    for _, given in values.lists():
        if len(given) > 1:
            raise Problem(
                422, "repeated-parameter", "a parameter was given twice; lists are comma-separated",
                errors=[{"pointer": "/params", "detail": "given twice"}],
            )  # fmt: skip
    return dict(values.items())


def _seed(value: Any, *, text: bool) -> int:
    if text and isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value, re.ASCII):
        value = int(value)
    if type(value) is not int or not 0 <= value <= MOST_SEED:
        raise InvalidParameter(
            f"seed must be a whole number from 0 to {MOST_SEED}", pointer="/params/seed"
        )
    return value


def _check_model(technique: Technique, model: Any) -> None:
    if not technique.takes_model:
        raise InvalidParameter(f"{technique.name} does not take a model", pointer="/params/model")
    if not isinstance(model, str):
        raise InvalidParameter("model must be a network's name", pointer="/params/model")
    find_network(model)
