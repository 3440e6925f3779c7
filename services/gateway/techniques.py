"""Techniques over HTTP: what there is, and running it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import time

import flask

import lantern
from lantern import call as calls
from lantern import registry
from lantern.call import Answer, Call
from lantern.describe import describe, describe_all
from lantern.errors import one_of
from lantern.image import Image
from lantern.registry import Technique
from lantern.zoo import check_weights, record
from services.backend import Unavailable
from services.files import Files
from services.gateway.catalogue import layers_of
from services.gateway.context import DECODING, current
from services.gateway.jobs import document, has_form, result_response
from services.gateway.problems import Problem
from services.gateway.reading import read_call
from services.jobs import Job

routes = flask.Blueprint("techniques", __name__)
LONGEST_WAIT_S = 30


@routes.get("/v1/techniques")
def list_techniques() -> flask.Response:
    """List every technique with its inputs, parameters and outputs."""
    return flask.jsonify(describe_all())


@routes.get("/v1/techniques/<name>")
def get_technique(name: str) -> flask.Response:
    """Describe one technique."""
    return flask.jsonify(describe(registry.find(name)))


@routes.post("/v1/techniques/<name>")
def run_technique(name: str) -> flask.Response:
    """Run a technique: a result at once, or a job."""
    technique = registry.find(name)
    prefer = _preferences(flask.request.headers.get("Prefer", ""))
    call = read_call(technique, current().files)
    as_job = technique.runs == "job" or "respond-async" in prefer
    with DECODING if as_job else contextlib.nullcontext():
        calls.check(technique, call.inputs, thoroughly=as_job)
    if "style" in call.params and "styles" in technique.injected.values():
        current().styles.style(call.params["style"])
    if as_job:
        _check_model(technique, call)
        return _queue(call, prefer)
    etag = _etag(technique, call)
    if etag in flask.request.if_none_match:
        response = flask.Response(status=304)
        response.set_etag(etag)
        return response
    started = time.perf_counter()
    try:
        answer = current().backend.perform(technique, call)
    except Unavailable:
        return _queue(call, prefer)
    response = _respond(answer, time.perf_counter() - started)
    response.set_etag(etag)
    return response


def _check_model(technique: Technique, call: Call) -> None:
    """Refuse a job now that its worker would refuse later."""
    if not technique.takes_model:
        return
    check_weights(record(call.model), downloads=current().settings.downloads)
    layer = call.params.get("layer")
    names = [entry["name"] for entry in layers_of(call.model)] if layer else []
    if layer and layer not in names:
        raise one_of("layer", layer, names, pointer="/params/layer")


def _respond(answer: Answer, seconds: float) -> flask.Response:
    response = flask.Response(answer.body, content_type=answer.media_type)
    timings = dict(answer.timings)
    timings["queue"] = max(0.0, seconds * 1e3 - sum(timings.values()))
    response.headers["Server-Timing"] = ", ".join(
        f"{name};dur={timings.get(name, 0.0):.1f}"
        for name in ("queue", "decode", "model", "encode")
    )
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _queue(call: Call, prefer: dict[str, str]) -> flask.Response:
    """Store the pictures, create the job, tell the workers; wait for it where that is preferred."""
    context = current()
    record = dataclasses.asdict(call) | {
        "inputs": {slot: _keep(context.files, data) for slot, data in call.inputs.items()},
        "accept": list(call.accept),
    }
    key = _idempotency_key()
    fingerprint = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    job, is_new = context.jobs.create(record, key=key, fingerprint=fingerprint)
    if is_new:
        context.announce(job.id)
    response = _accepted(job, prefer)
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def _keep(files: Files, data: bytes) -> str:
    """Store a picture as an upload is stored; return its id."""
    header = Image.probe(data)
    return files.put(data, header.media_type, width=header.width, height=header.height).id


def _accepted(job: Job, prefer: dict[str, str]) -> flask.Response:
    seconds = _wait_seconds(prefer)
    accept = flask.request.accept_mimetypes
    applied = "respond-async" if "respond-async" in prefer else ""
    if seconds:
        applied = f"wait={seconds}"
        done = current().jobs.wait(job.id, seconds)
        if done is not None and done.status == "succeeded" and has_form(done, accept):
            response = result_response(done, accept)
            response.headers["Preference-Applied"] = applied
            response.headers["Location"] = f"/v1/jobs/{job.id}"
            return response
        job = done or job
    response = flask.jsonify(document(job))
    response.status_code = 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if applied:
        response.headers["Preference-Applied"] = applied
    return response


def _wait_seconds(prefer: dict[str, str]) -> int:
    text = prefer.get("wait", "")
    return min(LONGEST_WAIT_S, int(text)) if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) else 0


def _preferences(header: str) -> dict[str, str]:
    """Read `Prefer: wait=5, respond-async`; what is not understood is ignored, as RFC 7240 asks."""
    parts = (part.strip().partition("=") for part in header.split(",") if part.strip())
    return {name.strip().lower(): value.strip(' "') for name, _, value in parts}


def _idempotency_key() -> str:
    key = flask.request.headers.get("Idempotency-Key", "")
    if len(key) > 255:
        raise Problem(400, "invalid-header", "Idempotency-Key may have at most 255 characters")
    if not key:
        return ""
    caller = flask.request.headers.get("Authorization", "")
    return hashlib.sha256(f"{caller}\n{flask.request.path}\n{key}".encode()).hexdigest()


def _etag(technique: Technique, call: Call) -> str:
    """Name the answer by all it depends on: pictures, parameters, form, weights and version."""
    head, _ = call.pack()
    digest = hashlib.sha256(f"{lantern.__version__}\n{head}\n".encode())
    for data in call.inputs.values():
        digest.update(hashlib.sha256(data).digest())
    if "styles" in technique.injected.values():
        style = current().styles.style(str(call.params["style"]))
        digest.update(json.dumps(dataclasses.asdict(style), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]
