"""What a finished job made, in any form a caller may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flask
from werkzeug.datastructures import MIMEAccept

from lantern.animation import recode_frames
from lantern.artifact import JSON, NPZ
from lantern.call import ANYTHING
from lantern.image import Image, Limits
from services.gateway.context import DECODING, current
from services.gateway.documents import result_document
from services.gateway.problems import Problem
from services.gateway.reading import accepted, without_parameters
from services.record import Job

# our own results are not what the limits for strangers' pictures are for
OWN = Limits(2**40, 2**40, 1, 2**20, float(2**20))


def has_form(job: Job, accept: MIMEAccept) -> bool:
    """Tell whether a finished job's result exists in a form the caller accepts."""
    assert job.result is not None
    try:
        return bool(_form(job, job.result["artifacts"][0], accepted(accept), document=True))
    except Problem:
        return False


def result_response(job: Job, accept: MIMEAccept) -> flask.Response:
    """Answer with the principal artifact, the Result document or the raw arrays."""
    assert job.result is not None
    artifact = job.result["artifacts"][0]
    form = _form(job, artifact, accepted(accept), document=True)
    if form == JSON and (JSON not in artifact["media_types"] or _asks_for(accept, JSON)):
        return flask.jsonify(result_document(job))
    return _respond(job, artifact, form)


def artifact_response(job: Job, name: str, accept: MIMEAccept) -> flask.Response:
    """Answer with one artifact.

    Raises:
        Problem: there is none of that name, or not in this form.
    """
    assert job.result is not None
    for artifact in job.result["artifacts"]:
        if artifact["name"] == name:
            form = _form(job, artifact, accepted(accept), document=False)
            return _respond(job, artifact, form)
    raise Problem(404, "not-found", "the job has no artifact of that name")


def _respond(job: Job, artifact: Mapping[str, Any], form: str) -> flask.Response:
    assert job.result is not None
    name = job.result["arrays"] if form == NPZ else artifact["blob"]
    data = current().stores.blobs.read(job.id, name)
    if data is None:
        raise Problem(410, "expired", "the result has expired; run the job again")
    if form not in (NPZ, artifact["stored"]):
        with DECODING:
            data = _converted(artifact["kind"], data, form, job.call["rendering"]["quality"])
    response = flask.Response(data, content_type=form)
    # the same call has the same result, whichever job has computed it
    computed = job.cache[:32] or job.id
    response.set_etag(f"{computed}-{artifact['name']}-{form.rpartition('/')[2]}")
    response.make_conditional(flask.request)
    return response


def _converted(kind: str, data: bytes, form: str, quality: int) -> bytes:
    """Make another form of the one that is stored."""
    if kind == "animation":
        return recode_frames(data, form, quality)
    return Image.decode(data, OWN).encode(form, quality)


def _form(job: Job, artifact: Mapping[str, Any], forms: tuple[str, ...], *, document: bool) -> str:
    """Choose the form of the answer: the first acceptable one that exists."""
    assert job.result is not None
    existing: list[str] = list(artifact["media_types"])
    existing += [JSON] if document and JSON not in existing else []
    existing += [NPZ] if job.result["arrays"] else []
    preferred = existing[0]
    for form in forms:
        if form in existing:
            return form
        if form in (ANYTHING, preferred.split("/", maxsplit=1)[0] + "/*"):
            return preferred
    raise Problem(406, "not-acceptable", f"the artifact can be had as {', '.join(existing)}")


def _asks_for(accept: MIMEAccept, form: str) -> bool:
    return any(kind == form for kind, _ in without_parameters(accept))
