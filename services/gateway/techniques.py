"""Techniques over HTTP: what there is, and running it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping

import flask
from blake3 import blake3

import lantern
from lantern import call as calls
from lantern import registry
from lantern.call import Answer, Call
from lantern.collections.library import Collections
from lantern.describe import describe, describe_all
from lantern.errors import one_of
from lantern.registry import Technique
from lantern.zoo import check_weights
from services.backend import AnswerTooLarge, Unavailable
from services.gateway.catalogue import layers_of
from services.gateway.context import DECODING, current
from services.gateway.guard import current_key, owner, require
from services.gateway.networks import find_network
from services.gateway.pinned import pin
from services.gateway.preferences import left_s, preferences, wait_s
from services.gateway.reading import read_call
from services.gateway.styles import check_styles
from services.gateway.submission import replay, submit, takes_long
from services.gateway.trained import find_trained
from services.gateway.weights import weights_of

routes = flask.Blueprint("techniques", __name__)


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
    prefer = preferences(flask.request.headers.get("Prefer", ""))
    call, options = read_call(technique)
    if (replayed := replay(call, options, prefer)) is not None:
        return replayed
    pinned, trained = pin(technique, call), find_trained(technique, call)
    # the engine knows the built-in collections alone, and no decoders
    is_own = trained is not None or (pinned is not None and pinned.manifest is not None)
    is_film = calls.check(technique, call.inputs, thoroughly=False)
    is_long = takes_long(technique, call, is_film=is_film)
    as_job = is_long or "respond-async" in prefer or is_own
    if as_job:
        require("jobs")
        with DECODING:
            calls.check(technique, call.inputs, thoroughly=True)
    weights = weights_of(technique, call, check_styles(technique, call))
    if as_job:
        _check_model(technique, call)
        return submit(technique, call, options, prefer, weights, pinned, trained, is_long=is_long)
    try:
        return _at_once(technique, call, weights, prefer)
    except AnswerTooLarge:
        require("jobs")
    except Unavailable:
        if "jobs" not in current_key().scopes:
            raise
    return submit(technique, call, options, prefer, weights, pinned)


def _at_once(
    technique: Technique, call: Call, weights: str, prefer: Mapping[str, str]
) -> flask.Response:
    engine, seconds = current().backend.perform, wait_s(prefer)
    if not seconds:
        return answer(technique, call, weights, engine)
    in_time = functools.partial(engine, within_s=left_s(prefer))
    response = answer(technique, call, weights, in_time)
    response.headers["Preference-Applied"] = f"wait={seconds}"
    return response


def answer(
    technique: Technique,
    call: Call,
    weights: str,
    engine: Callable[[Technique, Call], Answer],
) -> flask.Response:
    """Answer a call at once: with nothing where the caller has it, from memory, or by the engine.

    `weights` name those that it is answered by.

    Raises:
        Unavailable: the engine cannot serve it now.
    """
    etag = _etag(technique, call, weights)
    # a proxy that compresses makes an ETag weak
    if flask.request.if_none_match.contains_weak(etag):
        return _marked(flask.Response(status=304), etag)
    answers, name = current().answers, f"{owner()}-{etag}"
    known = None if flask.request.cache_control.no_cache else answers.find(name)
    started = time.perf_counter()
    given = known or engine(technique, call)
    response = _respond(given, time.perf_counter() - started)
    _marked(response, etag)
    response.headers["Cache-Status"] = "lantern; hit" if known else "lantern; fwd=miss"
    if known is None:
        response.call_on_close(lambda: answers.keep(name, given))
    return response


def _check_model(technique: Technique, call: Call) -> None:
    """Refuse a job now that its worker would refuse later."""
    if not technique.takes_model:
        return
    rec = find_network(call.model)
    check_weights(rec, downloads=current().settings.downloads)
    layer = call.params.get("layer")
    names = [entry["name"] for entry in layers_of(rec)] if layer else []
    if layer and layer not in names:
        raise one_of("layer", layer, names, pointer="/params/layer")


def _respond(given: Answer, seconds: float) -> flask.Response:
    response = flask.Response(given.body, content_type=given.media_type)
    timings = dict(given.timings)
    timings["queue"] = max(0.0, seconds * 1e3 - sum(timings.values()))
    response.headers["Server-Timing"] = ", ".join(
        f"{name};dur={timings.get(name, 0.0):.1f}"
        for name in ("queue", "decode", "model", "encode")
    )
    return response


def _marked(response: flask.Response, etag: str) -> flask.Response:
    response.set_etag(etag)
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response


def _etag(technique: Technique, call: Call, weights: str) -> str:
    """Name the answer by all it depends on: pictures, parameters, form, weights and version."""
    head, _ = call.pack()
    # SHA-256 took a seventh of the way there and back, BLAKE2b half as long
    digest = blake3(f"{lantern.__version__}\n{weights}\n{head}\n".encode())
    for data in call.inputs.values():  # their lengths are in the head
        digest.update(data)
    if technique.takes_collection:  # a built-in one, others are read by jobs
        digest.update(Collections().find(str(call.params["collection"])).digest.encode())
    return digest.hexdigest(length=16)
