"""The gateway with one route more, which goes the whole way to an engine that does nothing."""

from __future__ import annotations

import flask

from lantern import call as calls
from lantern import registry
from services.gateway.app import create_app
from services.gateway.context import current
from services.gateway.reading import read_call
from services.gateway.techniques import answer
from services.gateway.weights import weights_of
from services.settings import read

app = create_app(read())


@app.post("/echo")
def echo() -> flask.Response:
    """Read and check a call as the real route does, send it to the echo, answer."""
    technique = registry.find("classify")
    call, _ = read_call(technique)
    calls.check(technique, call.inputs, thoroughly=False)
    weights = weights_of(technique, call, ())
    return answer(
        technique, call, weights, lambda _, call: current().backend.send("echo", *call.pack())
    )
