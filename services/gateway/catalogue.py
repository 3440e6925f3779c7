"""What techniques run on, over HTTP: networks and sample photographs."""

from __future__ import annotations

import threading
from typing import Any

import flask

from lantern import samples
from lantern.errors import UnknownName
from lantern.layers import layers
from lantern.networks import Entry
from lantern.records import RECORDS, Record
from services.gateway.context import current
from services.gateway.documents import moment
from services.gateway.guard import owner
from services.gateway.networks import find_network
from services.gateway.problems import Problem

routes = flask.Blueprint("catalogue", __name__)
# Networks whose layers are known, the first known going first.
MOST_KNOWN = 64
_LOCK = threading.Lock()
_LAYERS: dict[str, list[dict[str, Any]]] = {}


@routes.get("/v1/models")
def list_models() -> flask.Response:
    """List the networks, built-in ones and yours, and whether their weights are here."""
    networks = current().networks
    own = [described(networks.record_of(entry), entry) for entry in networks.every(owner())]
    return flask.jsonify({"models": [*map(described, RECORDS.values()), *own]})


@routes.get("/v1/models/<name>")
def get_model(name: str) -> flask.Response:
    """Describe a network: labels and every layer with its output shape and receptive field."""
    try:
        rec = find_network(name)
    except UnknownName as error:
        known = ", ".join(RECORDS)
        raise Problem(
            404, "unknown-model", f"there is no such network; there are {known} and your own"
        ) from error
    body = described(rec, current().networks.entry(name))
    return flask.jsonify(body | {"labels": list(rec.class_labels), "layers": layers_of(rec)})


@routes.get("/v1/samples")
def list_samples() -> flask.Response:
    """List the sample photographs."""
    found = [{"name": name, "url": f"/v1/samples/{name}"} for name in samples.photographs()]
    return flask.jsonify({"samples": found})


@routes.get("/v1/samples/<name>")
def get_sample(name: str) -> flask.Response:
    """Return a sample photograph."""
    photographs = samples.photographs()
    if name not in photographs:
        raise Problem(
            404, "not-found", f"there is no such sample; there are {', '.join(photographs)}"
        )
    return flask.send_file(photographs[name], max_age=3600)


def described(rec: Record, entry: Entry | None = None) -> dict[str, Any]:
    """Describe a network; of one that was brought, also what was said of it."""
    facts = {
        "name": rec.name,
        "weights": rec.weights_state(downloads=current().settings.downloads),
        "input_size": [rec.input_size, rec.input_size],
        "classes": len(rec.class_labels),
        "scores": rec.scores,
        "channels": len(rec.mean),
        "licence": rec.licence,
    }
    if entry is None:
        return facts
    said = entry.brought
    return facts | {
        "title": said.title,
        "architecture": f"{said.library}/{said.architecture}",
        "bytes": entry.size,
        "created_at": moment(entry.created_at),
    }


def layers_of(rec: Record) -> list[dict[str, Any]]:
    """Return the layers of a network as plain data; what a name stands for never changes."""
    known = _LAYERS.get(rec.name)
    if known is None:
        known = [layer.document() for layer in layers(rec)]
        with _LOCK:
            while len(_LAYERS) >= MOST_KNOWN:
                _LAYERS.pop(next(iter(_LAYERS)))
            _LAYERS[rec.name] = known
    return known
