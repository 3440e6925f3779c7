"""What techniques run on, over HTTP: networks, styles, sample photographs."""

from __future__ import annotations

import functools
from typing import Any

import flask

from lantern import samples
from lantern.layers import layers
from lantern.zoo import RECORDS, Record, imagenet_labels, record
from services.gateway.context import current
from services.gateway.problems import Problem

routes = flask.Blueprint("catalogue", __name__)


@routes.get("/v1/models")
def list_models() -> flask.Response:
    """List the networks and whether their weights are here."""
    return flask.jsonify({"models": [_model(rec) for rec in RECORDS.values()]})


@routes.get("/v1/models/<name>")
def get_model(name: str) -> flask.Response:
    """Describe a network: labels and every layer with its output shape and receptive field."""
    if name not in RECORDS:
        raise Problem(
            404, "unknown-model", f"there is no such network; there are {', '.join(RECORDS)}"
        )
    body = _model(record(name)) | {"labels": list(imagenet_labels()), "layers": layers_of(name)}
    return flask.jsonify(body)


@routes.get("/v1/styles")
def list_styles() -> flask.Response:
    """List the trained styles."""
    styles = current().styles.styles().values()
    return flask.jsonify(
        {
            "styles": [
                {
                    "name": style.name,
                    "title": style.title,
                    "kind": style.kind,
                    "thumbnail": f"/v1/styles/{style.name}/thumbnail",
                    "facts": style.facts,
                }
                for style in styles
            ]
        }
    )


@routes.get("/v1/styles/<name>/thumbnail")
def get_thumbnail(name: str) -> flask.Response:
    """Show a photograph painted in the style."""
    styles = current().styles.styles()
    if name not in styles:
        raise Problem(
            404, "unknown-style", f"there is no such style; there are {', '.join(styles)}"
        )
    path = current().styles.folder / styles[name].thumbnail
    return flask.send_file(path, mimetype="image/jpeg", max_age=3600)


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


def _model(rec: Record) -> dict[str, Any]:
    return {
        "name": rec.name,
        "weights": rec.weights_state(downloads=current().settings.downloads),
        "input_size": [rec.input_size, rec.input_size],
        "classes": len(imagenet_labels()),
        "licence": rec.licence,
    }


@functools.cache
def layers_of(name: str) -> list[dict[str, Any]]:
    """Return the layers of a network as plain data."""
    return [layer.document() for layer in layers(record(name))]
