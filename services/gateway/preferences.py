"""What a caller prefers: a job at once, or an answer within some seconds (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.gateway.guard import since_it_came_s

LONGEST_WAIT_S = 30


def preferences(header: str) -> dict[str, str]:
    """Read `Prefer: wait=5, respond-async`; what is not understood is ignored, as RFC 7240 asks."""
    parts = (part.strip().partition("=") for part in header.split(",") if part.strip())
    return {name.strip().lower(): value.strip(' "') for name, _, value in parts}


def wait_s(prefer: Mapping[str, str]) -> int:
    """Return the seconds that the caller wants to wait, 0 where none are named."""
    text = prefer.get("wait", "")
    return min(LONGEST_WAIT_S, int(text)) if re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) else 0


def left_s(prefer: Mapping[str, str]) -> float:
    """Return what is left of these seconds, which began when the request came."""
    return max(0.0, wait_s(prefer) - since_it_came_s())
