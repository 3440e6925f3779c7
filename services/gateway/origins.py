"""Which web pages may call: this service's own."""

from __future__ import annotations

import re

import flask

from services.gateway.problems import Problem
from services.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")


def check_caller(settings: Settings) -> None:
    """Refuse the page of another site where no key tells who calls.

    Any page may send forms to this machine, and a page whose name is made to lead here is even
    one of ours to the browser; only the name it calls us by tells.

    Raises:
        Problem: the call is addressed to another name, or comes from another site.
    """
    names = {*LOOPBACK, settings.netloc.rpartition(":")[0]}
    if re.sub(r":[0-9]*$", "", flask.request.host).lower() not in names:
        raise Problem(
            403, "foreign-host",
            f"a service without keys is called by {', '.join(LOOPBACK)} or its LANTERN_HOST alone; "
            "use one of these, or have LANTERN_API_KEYS set",
        )  # fmt: skip
    if flask.request.method not in SAFE:
        check_origin()


def check_origin() -> None:
    """Refuse what the page of another site sends.

    Raises:
        Problem: the page's origin is not this service's.
    """
    origin = flask.request.headers.get("Origin", "")
    netloc = origin.partition("://")[2]
    if origin and (not netloc or netloc != flask.request.host):
        raise Problem(403, "foreign-origin", "pages of another site may not call")
