"""The Flask application."""

from __future__ import annotations

from pathlib import Path

import flask

from lantern.registry import MOST_PICTURES
from services.gateway import (
    bringing,
    catalogue,
    collections,
    context,
    files,
    guard,
    health,
    jobs,
    openapi,
    problems,
    stream,
    styles,
    techniques,
)
from services.settings import Settings

STATIC = Path(__file__).parent / "static"
ROUTES = (
    *(techniques, stream, jobs, files, collections),
    *(catalogue, styles, bringing, health, openapi),
)


def create_app(settings: Settings) -> flask.Flask:
    """Make the application; nothing connects before the first request."""
    app = flask.Flask(__name__, static_folder=str(STATIC), static_url_path="/static")
    # a redirect would carry the Host the caller made up
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = 1024 * 1024
    app.config["MAX_FORM_PARTS"] = 64 + MOST_PICTURES
    # parameters and columns keep the order they were declared in
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["lantern"] = context.make(settings)
    problems.install(app)
    guard.install(app, settings)
    for module in ROUTES:
        app.register_blueprint(module.routes)

    @app.get("/")
    def studio() -> flask.Response:
        """Show the web studio."""
        return flask.send_file(STATIC / "index.html")

    @app.get("/camera")
    def camera() -> flask.Response:
        """Show the page on which a camera's picture is painted."""
        return flask.send_file(STATIC / "camera.html")

    @app.get("/docs")
    def docs() -> flask.Response:
        """Show the documentation of the interface."""
        return flask.send_file(STATIC / "docs.html")

    return app
