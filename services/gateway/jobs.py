"""Jobs over HTTP: state, events, previews, results; cancel, pause and resume."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import flask
import redis

from services import job_bytes
from services.following import events_until_done
from services.gateway.context import current
from services.gateway.documents import document, moment, preview
from services.gateway.guard import owner
from services.gateway.problems import Problem
from services.gateway.query import whole_number
from services.gateway.results import artifact_response, result_response
from services.jobs import Event, Position
from services.record import FINAL, LIVE, Job

routes = flask.Blueprint("jobs", __name__)
JOB_ID = re.compile(r"job_[0-9a-f]{32}")
POSITION = re.compile(r"([0-9]{1,15}) (job_[0-9a-f]{32})", re.ASCII)
STREAM_POSITION = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?", re.ASCII)
LONGEST_POLL_S = 30
MOST_PER_PAGE = 200
COMMENT_EVERY_S = 15.0
STREAM_AT_MOST_S = 600.0


@routes.get("/v1/jobs")
def list_jobs() -> flask.Response:
    """List jobs, newest first."""
    limit = whole_number("limit", 50, 1, MOST_PER_PAGE)
    wanted = {name: flask.request.args.get(name) for name in ("status", "technique")}
    if wanted["status"] and wanted["status"] not in (*LIVE, *FINAL):
        raise Problem(422, "invalid-parameter", f"status may be {', '.join((*LIVE, *FINAL))}")
    position = _position(flask.request.args.get("cursor"))
    found: list[Job] = []
    more = True
    while more and len(found) < limit:
        positions = current().stores.jobs.newest(owner(), MOST_PER_PAGE, position)
        more = len(positions) == MOST_PER_PAGE
        jobs = {job.id: job for job in current().stores.jobs.get_all([p[1] for p in positions])}
        for position in positions:
            job = jobs.get(position[1])
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
    seconds = whole_number("wait", 0, 0, LONGEST_POLL_S)
    job = _find(job_id)
    if seconds:
        job = current().waited(job, seconds) or job
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
    if job.is_final and not current().stores.jobs.events(job_id, after, 0.001):
        return flask.Response(status=204)  # tells an EventSource not to come back
    seats, who = current().seats, owner()
    if not seats.take(who):
        raise Problem(
            429, "too-many-streams",
            f"too many streams are open, of {seats.bounds}; poll the job instead",
        )  # fmt: skip
    stream = flask.stream_with_context(_stream(job_id, after))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = flask.Response(stream, content_type="text/event-stream", headers=headers)
    response.call_on_close(lambda: seats.give_back(who))
    return response


@routes.get("/v1/jobs/<job_id>/result")
def get_result(job_id: str) -> flask.Response:
    """Return the job's principal artifact."""
    return result_response(_finished(job_id), flask.request.accept_mimetypes)


@routes.get("/v1/jobs/<job_id>/artifacts/<name>")
def get_artifact(job_id: str, name: str) -> flask.Response:
    """Return one artifact of a finished job."""
    return artifact_response(_finished(job_id), name, flask.request.accept_mimetypes)


@routes.get("/v1/jobs/<job_id>/previews")
def list_previews(job_id: str) -> flask.Response:
    """List the pictures of the job's making, first to last."""
    job = _find(job_id)
    steps = current().stores.jobs.previews(job_id)
    ends = job.finished_at and job.finished_at + current().settings.preview_ttl_s
    pictures = [preview(job_id, step) for step in steps]
    return flask.jsonify({"previews": pictures, "expires_at": moment(ends)})


@routes.get("/v1/jobs/<job_id>/previews/<int:step>")
def get_preview(job_id: str, step: int) -> flask.Response:
    """Return the picture as it was at a step."""
    _find(job_id)
    stores = current().stores
    fence = dict(stores.jobs.shown(job_id)).get(step)
    data = None
    if fence is not None:  # no other step is asked for: it may have digits by the thousand
        data = stores.blobs.read(job_id, job_bytes.preview_name(step, fence))
    if data is None:
        raise Problem(404, "not-found", "there is no preview of that step, or it has expired")
    return flask.Response(data, content_type="image/jpeg")


@routes.get("/v1/jobs/<job_id>/deliveries")
def list_deliveries(job_id: str) -> flask.Response:
    """List the attempts to tell the job's webhook of its end."""
    job = _find(job_id)
    deliveries = current().stores.outbox.deliveries(job_id)
    return flask.jsonify({"deliveries": deliveries, "expires_at": moment(job.expires_at)})


@routes.post("/v1/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> flask.Response:
    """Cancel a job: at once while it waits, within a step while it runs."""
    _find(job_id)
    status = current().stores.jobs.cancel(job_id)
    response = flask.jsonify(document(_find(job_id)))
    response.status_code = 200 if status in FINAL and status != "canceled" else 202
    return response


@routes.post("/v1/jobs/<job_id>/pause")
def pause_job(job_id: str) -> flask.Response:
    """Pause a job: at once while it waits, behind its next step while it runs."""
    _live(job_id)
    current().stores.jobs.pause(job_id)
    return flask.jsonify(document(_find(job_id))), 202  # type: ignore[return-value]


@routes.post("/v1/jobs/<job_id>/resume")
def resume_job(job_id: str) -> flask.Response:
    """Let a paused job go on from where it was."""
    _live(job_id)
    status = current().stores.jobs.resume(job_id)
    job = _find(job_id)
    if status == "queued":
        current().announce(job)
    return flask.jsonify(document(job)), 202  # type: ignore[return-value]


@routes.delete("/v1/jobs/<job_id>")
def delete_job(job_id: str) -> flask.Response:
    """Forget a finished job and everything that is kept for it."""
    job = _find(job_id)
    if not job.is_final:
        raise Problem(409, "not-finished", "the job is not finished; cancel it first")
    stores = current().stores
    job_bytes.delete(stores, job)
    stores.jobs.delete(job)
    return flask.Response(status=204)


def _stream(job_id: str, after: str) -> Iterator[str]:
    yield "retry: 2000\n\n"
    jobs, ends = current().stores.jobs, time.monotonic() + STREAM_AT_MOST_S
    if after != "0" and _moment(after) < _moment(jobs.first_event(job_id)):
        yield "event: gap\ndata: {}\n\n"  # what lay between is gone: ask for the job
    for event in events_until_done(jobs, job_id, after, COMMENT_EVERY_S):
        if event is None:
            if _is_over(job_id):
                return  # its events were read before, or have expired
            yield ": still here\n\n"
        else:
            yield _written(event, job_id)
        if time.monotonic() > ends:
            return  # the client comes back with Last-Event-ID


def _is_over(job_id: str) -> bool:
    try:
        job = current().stores.jobs.get(job_id)
    except redis.RedisError:
        return False
    return job is None or job.is_final


def _written(event: Event, job_id: str) -> str:
    data: Any = event.data
    if event.name == "done":
        job = current().stores.jobs.get(job_id)
        data = document(job) if job else data
    return f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(data)}\n\n"


def _find(job_id: str) -> Job:
    job = _known(job_id)
    if job is None:
        raise _missing()
    return job


def _known(job_id: str) -> Job | None:
    job = current().stores.jobs.get(job_id) if JOB_ID.fullmatch(job_id) else None
    return job if job is not None and job.owner == owner() else None


def _was_yours(job_id: str) -> bool:
    is_id = JOB_ID.fullmatch(job_id) is not None
    return is_id and current().stores.jobs.owner_of_ended(job_id) == owner()


def _missing() -> Problem:
    return Problem(404, "not-found", "there is no such job, or it has expired")


def _live(job_id: str) -> Job:
    job = _find(job_id)
    if job.is_final:
        raise Problem(409, "finished", f"the job is over: it {job.status}")
    return job


def _finished(job_id: str) -> Job:
    """Find a job that has a result.

    Raises:
        Problem: there is no such job, or it has no result: not yet, not any more, or never.
    """
    job = _known(job_id)
    if job is None and _was_yours(job_id):
        raise Problem(410, "expired", "the job has expired; send the call again")
    if job is None:
        raise _missing()
    if not job.is_final:
        raise Problem(409, "not-finished", "the job is not finished; follow its events or poll it")
    if job.status == "expired":
        raise Problem(410, "expired", "its deadline passed before it was done; send the call again")
    if job.result is None:
        detail = job.error["detail"] if job.error else f"the job was {job.status}"
        raise Problem(409, "no-result", f"the job has no result: {detail}")
    return job


def _matches(job: Job, wanted: dict[str, str | None]) -> bool:
    return (not wanted["status"] or job.status == wanted["status"]) and (
        not wanted["technique"] or job.call["technique"] == wanted["technique"]
    )


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


def _moment(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-") if part)
