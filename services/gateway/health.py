"""Whether the service lives, whether it can serve, and how busy it is."""

from __future__ import annotations

from collections.abc import Callable

import flask
import redis

from services.backend import Unavailable
from services.gateway.context import current
from services.record import LANES

routes = flask.Blueprint("health", __name__)


@routes.get("/healthz/live")
def live() -> flask.Response:
    """Tell that this process answers."""
    return flask.jsonify({"status": "live"})


@routes.get("/healthz/ready")
def ready() -> flask.Response:
    """Tell whether Redis, a worker of every TorchServe archive and a Celery worker are there."""
    context = current()
    checks = {
        "redis": _holds(lambda: bool(context.stores.state.ping()) and context.stores.blobs.ping()),
        "torchserve": _holds(lambda: all(context.backend.ready_workers().values())),
        "worker": _holds(lambda: all(context.stores.jobs.workers(lane) for lane in LANES)),
    }
    response = flask.jsonify(
        {"status": "ready" if all(checks.values()) else "waiting", "checks": checks}
    )
    response.status_code = 200 if all(checks.values()) else 503
    return response


@routes.get("/metrics")
def metrics() -> flask.Response:
    """Report gauges in Prometheus' text format."""
    context = current()
    counts = context.stores.jobs.counts()
    values = {
        "lantern_jobs_queued": counts["queued"],
        "lantern_jobs_running": counts["running"],
        "lantern_workers": sum(context.stores.jobs.workers(lane) for lane in LANES),
        "lantern_outbox_due": context.stores.outbox.due(),
        "lantern_storage_used_ratio": round(context.stores.blobs.used(), 4),
    }
    lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in values.items()]
    return flask.Response("".join(lines), content_type="text/plain; version=0.0.4")


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (redis.RedisError, Unavailable):
        return False
