"""Dreams of known length, to be broken off, waited for and compared."""

from __future__ import annotations

from typing import Any

from tests.e2e.running import Running

QUICK = {"steps": 2, "octaves": 2, "size": 96}
# On processors that make a step in ten milliseconds, too.
SEVERAL_SECONDS = {"steps": 90, "octaves": 4, "size": 160}
MINUTES = {"steps": 200, "octaves": 10, "size": 512}


def result_of(stack: Running, job: Any, accept: str = "image/png") -> bytes:
    """Return the bytes of a job's result, in the form that is accepted."""
    response = stack.get(job["links"]["result"], accept=accept)
    assert response.status == 200, response.data
    return response.data
