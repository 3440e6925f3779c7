"""Networks of callers' own: bring one, forget one."""

from __future__ import annotations

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from lantern.brought import Brought
from lantern.errors import InvalidParameter, InvalidParameters, MissingInput
from lantern.networks import TooManyNetworks
from lantern.records import RECORDS
from lantern.run import validate
from services.blobs import needing_room
from services.gateway.catalogue import described
from services.gateway.context import DECODING, current
from services.gateway.guard import owner
from services.gateway.networks import own_network
from services.gateway.problems import Problem
from services.gateway.reading import check_boundary, check_encoding, json_object, limits_of_forms

MOST_SAID = 4 * 1024 * 1024
routes = flask.Blueprint("bringing", __name__)


@routes.post("/v1/models")
def bring_network() -> flask.Response:
    """Bring a network of your own: its architecture and its weights as safetensors."""
    settings, networks = current().settings, current().networks
    brought, weights = _given(settings.max_model_bytes)
    current().stores.blobs.require_room()
    try:
        with DECODING, needing_room():
            entry = networks.bring(owner(), brought, weights, most=settings.max_models)
    except TooManyNetworks as error:
        raise Problem(
            429, "too-many-models",
            f"you have brought {settings.max_models} networks; delete one first",
        ) from error  # fmt: skip
    response = flask.jsonify(described(networks.record_of(entry), entry))
    response.status_code = 201
    response.headers["Location"] = f"/v1/models/{entry.id}"
    return response


@routes.delete("/v1/models/<name>")
def forget_network(name: str) -> flask.Response:
    """Forget a network of yours; jobs that still need it fail."""
    if name in RECORDS:
        raise Problem(409, "built-in", "a built-in network stays; only your own can be deleted")
    if own_network(name) is None or not current().networks.forget(name):
        raise Problem(404, "unknown-model", "you have brought no such network")
    return flask.Response(status=204)


def _given(limit: int) -> tuple[Brought, bytes]:
    """Read the two parts of the form.

    Raises:
        Problem, LanternError: they are not as they should be.
    """
    request = flask.request
    check_encoding()
    request.max_content_length = limit
    if request.mimetype != "multipart/form-data":
        raise Problem(
            415, "unsupported-media-type",
            "send multipart/form-data with the parts model (JSON) and weights (safetensors)",
        )  # fmt: skip
    check_boundary()
    try:
        with limits_of_forms():
            model, weights = request.files.get("model"), request.files.get("weights")
    except RequestEntityTooLarge as error:
        raise Problem(
            413, "too-large",
            f"the request may have at most {limit} bytes; send the weights in half precision, or "
            "have LANTERN_MAX_MODEL_BYTES set to more",
        ) from error  # fmt: skip
    text = model.read(MOST_SAID + 1) if model else request.form.get("model", "").encode()
    if weights is None or not text:
        raise MissingInput(
            "send the parts model (JSON) and weights (a safetensors file)",
            pointer="/model" if weights else "/weights",
        )
    if len(text) > MOST_SAID:
        raise Problem(413, "too-large", f"the part model may have {MOST_SAID} bytes")
    try:
        brought: Brought = validate(Brought, json_object(text, "the part model"))
    except InvalidParameters as error:
        raise InvalidParameters(map(_in_model, error.problems)) from None
    return brought, weights.read()


def _in_model(error: InvalidParameter) -> InvalidParameter:
    """Point at the part of the form instead of parameters."""
    pointer = "/model" + error.pointer.removeprefix("/params")
    return InvalidParameter(error.detail, pointer=pointer, code=error.code)
