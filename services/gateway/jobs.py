"""Jobs over HTTP: state, events, results, cancel."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import flask
from werkzeug.datastructures import MIMEAccept

import lantern
from lantern.artifact import JSON
from lantern.image import FORMATS, Image, Limits
from services.gateway.context import current
from services.gateway.problems import Problem
from services.gateway.reading import accepted
from services.jobs import FINAL, Event, Job, Position, events_until_done

routes = flask.Blueprint("jobs", __name__)
JOB_ID = re.compile(r"job_[0-9a-f]{32}")
POSITION = re.compile(r"([0-9]{1,15}) (job_[0-9a-f]{32})", re.ASCII)
STREAM_POSITION = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?", re.ASCII)
# our own results are not what the limits for strangers' pictures are for
OWN = Limits(2**40, 2**40, 1, 2**20, float(2**20))
LONGEST_POLL_S = 30
MOST_PER_PAGE = 200
COMMENT_EVERY_S = 15.0
STREAM_AT_MOST_S = 600.0


@routes.get("/v1/jobs")
def list_jobs() -> flask.Response:
    """List jobs, newest first."""
    limit = _number("limit", 50, 1, MOST_PER_PAGE)
    wanted = {name: flask.request.args.get(name) for name in ("status", "technique")}
    if wanted["status"] and wanted["status"] not in {"queued", "running", *FINAL}:
        raise Problem(
            422, "invalid-parameter", f"status may be queued, running, {', '.join(sorted(FINAL))}"
        )
    position = _position(flask.request.args.get("cursor"))
    found: list[Job] = []
    more = True
    while more and len(found) < limit:
        positions = current().jobs.newest(MOST_PER_PAGE, position)
        more = len(positions) == MOST_PER_PAGE
        for position in positions:
            job = current().jobs.get(position[1])
            if job is not None and _matches(job, wanted):
                found.append(job)
            if len(found) == limit:
                more = True
                break
    body: dict[str, Any] = {"jobs": [document(job) for job in found]}
    body["next"] = _cursor(position) if more and position is not None else None
    return flask.jsonify(body)


@routes.get("/v1/jobs/<job_id>")
def get_job(job_id: str) -> flask.Response:
    """Return a job; `?wait=20` waits up to that many seconds for its end."""
    seconds = _number("wait", 0, 0, LONGEST_POLL_S)
    job = _find(job_id)
    if seconds:
        job = current().jobs.wait(job_id, seconds) or job
    response = flask.jsonify(document(job))
    if not job.is_final:
        response.headers["Retry-After"] = "1"
    return response


@routes.get("/v1/jobs/<job_id>/events")
def get_events(job_id: str) -> flask.Response:
    """Stream the job's events as they come, from `Last-Event-ID` on."""
    job = _find(job_id)
    after = flask.request.headers.get("Last-Event-ID", "") or "0"
    if not STREAM_POSITION.fullmatch(after):
        raise Problem(400, "invalid-header", "Last-Event-ID is the id of an event of this stream")
    if job.is_final and not current().jobs.events(job_id, after, 0.001):
        return flask.Response(status=204)  # tells an EventSource not to come back
    stream = flask.stream_with_context(_stream(job_id, after))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return flask.Response(stream, content_type="text/event-stream", headers=headers)


@routes.get("/v1/jobs/<job_id>/result")
def get_result(job_id: str) -> flask.Response:
    """Return the job's principal artifact."""
    return result_response(_finished(job_id), flask.request.accept_mimetypes)


@routes.get("/v1/jobs/<job_id>/artifacts/<name>")
def get_artifact(job_id: str, name: str) -> flask.Response:
    """Return one artifact of a finished job."""
    job = _finished(job_id)
    assert job.result is not None
    for artifact in job.result["artifacts"]:
        if artifact["name"] == name:
            return _artifact_response(artifact, flask.request.accept_mimetypes)
    raise Problem(404, "not-found", "the job has no artifact of that name")


@routes.get("/v1/jobs/<job_id>/previews/<int:step>")
def get_preview(job_id: str, step: int) -> flask.Response:
    """Return the picture as it was at a step."""
    _find(job_id)
    file = current().jobs.preview(job_id, step)
    data = current().files.read(file) if file else None
    if data is None:
        raise Problem(404, "not-found", "there is no preview of that step, or it has expired")
    return flask.Response(data, content_type="image/jpeg")


@routes.post("/v1/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> flask.Response:
    """Cancel a job: at once while it waits, within a step while it runs."""
    _find(job_id)
    status = current().jobs.cancel(job_id)
    response = flask.jsonify(document(_find(job_id)))
    response.status_code = 200 if status in FINAL and status != "canceled" else 202
    return response


@routes.delete("/v1/jobs/<job_id>")
def delete_job(job_id: str) -> flask.Response:
    """Forget a finished job and its results."""
    if not _find(job_id).is_final:
        raise Problem(409, "not-finished", "the job is not finished; cancel it first")
    current().jobs.delete(job_id)
    return flask.Response(status=204)


def document(job: Job) -> dict[str, Any]:
    """Return the Job document."""
    base = f"/v1/jobs/{job.id}"
    preview = None
    if job.preview_step is not None:
        preview = {"url": f"{base}/previews/{job.preview_step}", "step": job.preview_step}
    return {
        "id": job.id,
        "technique": job.call["technique"],
        "status": job.status,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "expires_at": _time(job.expires_at),
        "attempts": job.attempts,
        "progress": job.progress,
        "params": job.call["params"],
        "model": job.call["model"],
        "seed": job.call["seed"],
        "versions": (job.result or {})
        .get("facts", {})
        .get("versions", {"lantern": lantern.__version__}),
        "preview": preview,
        "result": _result(job, base) if job.result else None,
        "error": job.error,
        "links": {
            "self": base,
            "events": f"{base}/events",
            "result": f"{base}/result",
            "cancel": f"{base}/cancel",
        },
    }


def has_form(job: Job, accept: MIMEAccept) -> bool:
    """Tell whether a finished job's result exists in a form the caller accepts."""
    assert job.result is not None
    try:
        forms = accepted(accept)
        return forms[0] == JSON or bool(_form(job.result["artifacts"][0]["media_type"], forms))
    except Problem:
        return False


def result_response(job: Job, accept: MIMEAccept) -> flask.Response:
    """Return a finished job's principal artifact, or its Result document as JSON."""
    assert job.result is not None
    principal = job.result["artifacts"][0]
    forms = accepted(accept)
    if forms[0] == JSON and principal["media_type"] != JSON:
        return flask.jsonify(_result(job, f"/v1/jobs/{job.id}"))
    return _artifact_response(principal, accept)


def _result(job: Job, base: str) -> dict[str, Any]:
    assert job.result is not None
    artifacts = [
        {"name": a["name"], "kind": a["kind"], "media_type": a["media_type"],
         "url": f"{base}/artifacts/{a['name']}"}
        for a in job.result["artifacts"]
    ]  # fmt: skip
    return {**job.result, "artifacts": artifacts}


def _artifact_response(artifact: dict[str, Any], accept: MIMEAccept) -> flask.Response:
    data = current().files.read(artifact["file"])
    if data is None:
        raise Problem(410, "expired", "the result has expired; run the job again")
    stored = artifact["media_type"]
    wanted = _form(stored, accepted(accept))
    if wanted != stored:
        data = Image.decode(data, OWN).encode(wanted)
    response = flask.Response(data, content_type=wanted)
    response.set_etag(artifact["file"].removeprefix("file_")[:32] + wanted[-4:])
    response.make_conditional(flask.request)
    return response


def _form(stored: str, forms: tuple[str, ...]) -> str:
    existing = tuple(FORMATS) if stored in FORMATS else (stored,)
    for form in forms:
        if form in existing:
            return form
        if form in ("*/*", stored.split("/", maxsplit=1)[0] + "/*"):
            return stored
    raise Problem(406, "not-acceptable", f"the artifact can be had as {', '.join(existing)}")


def _stream(job_id: str, after: str) -> Iterator[str]:
    yield "retry: 2000\n\n"
    ends = time.monotonic() + STREAM_AT_MOST_S
    for event in events_until_done(current().jobs, job_id, after, COMMENT_EVERY_S):
        if event is None:
            job = current().jobs.get(job_id)
            if job is None or job.is_final:
                return  # its events were read before, or have expired
            yield ": still here\n\n"
        else:
            yield _written(event, job_id)
        if time.monotonic() > ends:
            return  # the client comes back with Last-Event-ID


def _written(event: Event, job_id: str) -> str:
    data: Any = event.data
    if event.name == "done":
        job = current().jobs.get(job_id)
        data = document(job) if job else data
    return f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(data)}\n\n"


def _find(job_id: str) -> Job:
    job = current().jobs.get(job_id) if JOB_ID.fullmatch(job_id) else None
    if job is None:
        raise Problem(404, "not-found", "there is no such job, or it has expired")
    return job


def _finished(job_id: str) -> Job:
    job = _find(job_id)
    if not job.is_final:
        raise Problem(409, "not-finished", "the job is not finished; follow its events or poll it")
    if job.result is None:
        detail = job.error["detail"] if job.error else f"the job was {job.status}"
        raise Problem(409, "no-result", f"the job has no result: {detail}")
    return job


def _matches(job: Job, wanted: dict[str, str | None]) -> bool:
    return (not wanted["status"] or job.status == wanted["status"]) and (
        not wanted["technique"] or job.call["technique"] == wanted["technique"]
    )


def _number(name: str, default: int, low: int, high: int) -> int:
    text = flask.request.args.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
        raise Problem(
            422, "invalid-parameter", f"{name} must be a whole number from {low} to {high}",
            errors=[{"pointer": f"/params/{name}", "detail": f"{low} to {high}"}],
        )  # fmt: skip
    return int(text)


def _cursor(position: Position) -> str:
    return base64.urlsafe_b64encode("{} {}".format(*position).encode()).decode()


def _position(cursor: str | None) -> Position | None:
    if not cursor:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor.encode()).decode()
    except (binascii.Error, ValueError):
        text = ""
    found = POSITION.fullmatch(text)
    if found is None:
        raise Problem(400, "malformed", "the cursor is not one this service gave out")
    return int(found[1]), found[2]


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
