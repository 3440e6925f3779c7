"""The trained styles: those of the model store, and those that were trained for who asks."""

from __future__ import annotations

from typing import Any

import flask

from lantern.call import Call
from lantern.errors import one_of
from lantern.registry import Technique
from lantern.styles.files import POINTER
from lantern.styles.library import Style
from lantern.styles.mix import read_mix
from lantern.styles.own import OWN_ID, OwnStyle
from services.gateway.context import current
from services.gateway.documents import moment
from services.gateway.guard import owner
from services.gateway.problems import Problem
from services.published import TRAINER

routes = flask.Blueprint("styles", __name__)


@routes.get("/v1/styles")
def list_styles() -> flask.Response:
    """List the trained styles, and yours."""
    styles = current().styles
    built_in = [_described(style) for style in styles.styles().values()]
    own = [_of_yours(entry) for entry in styles.own.every(owner())]
    return flask.jsonify({"styles": built_in + own})


@routes.get("/v1/styles/<name>/thumbnail")
def get_thumbnail(name: str) -> flask.Response:
    """Show a photograph painted in the style."""
    styles = current().styles
    known = styles.styles()
    if name not in known and _own(name) is None:
        raise Problem(
            404, "unknown-style",
            f"there is no such style; there are {', '.join(known)} and your own",
        )  # fmt: skip
    path = styles.folder / styles.style(name).thumbnail
    response = flask.send_file(path, mimetype="image/jpeg", max_age=3600)
    if name not in known:  # it may be the caller's own photograph
        response.cache_control.public = False
        response.cache_control.private = True
    return response


@routes.delete("/v1/styles/<name>")
def forget_style(name: str) -> flask.Response:
    """Forget a style of yours."""
    if name in current().styles.styles():
        raise Problem(409, "built-in", "a built-in style stays; only your own can be deleted")
    if _own(name) is None or not current().styles.own.forget(name):
        raise Problem(404, "unknown-style", "you have no such style")
    return flask.Response(status=204)


def check_styles(technique: Technique, call: Call) -> list[Style]:
    """Return the styles a call names.

    Raises:
        UnknownName: there is no such style, or it is another caller's.
        InvalidParameter: they cannot be mixed.
        Problem: it would train a style more than the caller may have.
    """
    styles, settings = current().styles, current().settings
    if technique.name == TRAINER and len(styles.own.every(owner())) >= settings.max_styles:
        raise Problem(
            429, "too-many-styles",
            f"you have {settings.max_styles} styles of your own; delete one first",
        )  # fmt: skip
    if not technique.takes_style:
        return []
    mix = read_mix(str(call.params["style"]))
    for name in mix:
        if OWN_ID.fullmatch(name) and _own(name) is None:
            raise one_of("style", name, styles.styles(), pointer=POINTER)
    return styles.check(mix)


def _own(name: str) -> OwnStyle | None:
    entry = current().styles.own.entry(name)
    return entry if entry is not None and entry.owner == owner() else None


def _of_yours(entry: OwnStyle) -> dict[str, Any]:
    return _described(current().styles.of_a_caller(entry)) | {
        "created_at": moment(entry.created_at)
    }


def _described(style: Style) -> dict[str, Any]:
    return {
        "name": style.name,
        "title": style.title,
        "kind": style.kind,
        "blends": style.blends,
        "thumbnail": f"/v1/styles/{style.name}/thumbnail",
        "facts": style.facts,
    }
