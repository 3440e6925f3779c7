"""Dreams of known length, to be broken off, waited for and compared."""

from __future__ import annotations

from typing import Any

from tests.e2e.running import Running

QUICK = {"steps": 2, "octaves": 2, "size": 96}
SEVERAL_SECONDS = {"steps": 25, "octaves": 4, "size": 160}
MINUTES = {"steps": 200, "octaves": 10, "size": 512}


def result_of(stack: Running, job: Any) -> bytes:
    """Return the bytes of a job's picture or, where it has none, of its document."""
    response = stack.get(job["links"]["result"], accept="image/png, application/json;q=0.5")
    assert response.status == 200, response.data
    return response.data
