"""Values in a query string."""

from __future__ import annotations

import re

import flask

from services.gateway.problems import Problem


def whole_number(name: str, default: int, low: int, high: int) -> int:
    """Read a whole number.

    Raises:
        Problem: it is none, or outside its range.
    """
    text = flask.request.args.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise Problem(
            422, "invalid-parameter", f"{name} must be a whole number from {low} to {high}",
            errors=[{"pointer": f"/params/{name}", "detail": f"{low} to {high}"}],
        )  # fmt: skip
    return int(text)
