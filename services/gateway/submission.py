"""Making a job of a call: its pictures are stored, its record made, the workers told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flask
import redis

import lantern
from lantern.artifact import JSON
from lantern.call import Call, by_slot
from lantern.decoders.library import unknown
from lantern.image import Image
from lantern.params import Params
from lantern.registry import Technique
from lantern.run import estimate, validate
from lantern.work import check
from services import job_bytes, webhooks
from services.blobs import FilesAway, StorageFull
from services.gateway.context import Context, current
from services.gateway.documents import document
from services.gateway.guard import current_key, owner, require
from services.gateway.pinned import Pinned
from services.gateway.preferences import left_s, wait_s
from services.gateway.problems import Problem
from services.gateway.results import has_form, result_response
from services.gateway.trained import Trained
from services.jobs import IdempotencyConflict, Order, QueueFull, QuotaReached
from services.kept import TooMuchKept
from services.published import TRAINER
from services.record import Job, JobOptions, new_id

# Why a job is not made, each for sure.
REFUSALS = (
    IdempotencyConflict,
    QuotaReached,
    QueueFull,
    StorageFull,
    TooMuchKept,
    FilesAway,
)
LONGEST_KEY = 255
# How long bytes without a job lie: a gateway may be killed before it has made the job.
JOBLESS_S = 600


def replay(call: Call, options: JobOptions, prefer: Mapping[str, str]) -> flask.Response | None:
    """Answer a call that is sent again with the job it has made; None where it has made none.

    Nothing that came since may refuse it: full storage, a collection that is gone.

    Raises:
        IdempotencyConflict: its key was used for another call.
        Problem: the key is too long, or the caller may have no jobs any more.
    """
    key = _idempotency_key()
    if not key:
        return None
    try:
        job = current().stores.jobs.replayed(key, _fingerprint(call, options))
    except redis.RedisError:  # quick calls need no store, and others will find that it is away
        return None
    if job is None:
        return None
    require("jobs")
    return _replayed(job, options, prefer)


def submit(
    technique: Technique,
    call: Call,
    options: JobOptions,
    prefer: Mapping[str, str],
    weights: str,
    pinned: Pinned | None = None,
    trained: Trained | None = None,
    *,
    is_long: bool = False,
) -> flask.Response:
    """Make a job of a call, or replay the one made before; answer with it or its result.

    `weights` name those it is made by, `pinned` is its collection, `trained` its decoder. One that
    `is_long` is so whatever its estimate says.
    """
    context = current()
    context.stores.blobs.require_room()
    context.stores.kept.require_room(owner())
    order = _order(technique, call, options, weights, pinned, is_long=is_long)
    known = None if flask.request.cache_control.no_cache else context.stores.jobs.known(order.cache)
    try:
        if known is not None and (result := _copied(context, known, order)):
            order = dataclasses.replace(order, result=result)
        else:
            _keep_inputs(context, order.id, call, pinned, trained)
        job, is_new = context.stores.jobs.create(
            order, key=_idempotency_key(), fingerprint=_fingerprint(call, options)
        )
    except (*REFUSALS, redis.ResponseError):  # where the answer was lost, there may be a job
        _drop(context, order)
        raise
    if not is_new:  # it was sent twice at the same time
        _drop(context, order)
        return _replayed(job, options, prefer)
    _keep_on(context, order)
    if not job.is_final:
        context.announce(job)
    return _answer(job, options, prefer)


def takes_long(technique: Technique, call: Call, *, is_film: bool) -> bool:
    """Tell whether a call takes too long to be answered at once.

    Raises:
        LanternError: the parameters do not fit the network.
    """
    if technique.runs == "job" or is_film:
        return True
    most = current().settings.max_interactive_teraflop
    return _exceeds(_expected(technique, _without_evidence(technique, call)), most)


def _exceeds(expected: Mapping[str, Any], teraflop: float) -> bool:
    work: float = expected.get("gigaflop", 0.0)
    return work > 1e3 * teraflop


def _without_evidence(technique: Technique, call: Call) -> Call:
    """Leave out of a call what is only worked out for answers that show facts."""
    if JSON in call.accept or "evidence" not in technique.params_type.model_fields:
        return call
    return dataclasses.replace(call, params={**call.params, "evidence": 0, "sanity": False})


def _order(
    technique: Technique,
    call: Call,
    options: JobOptions,
    weights: str,
    pinned: Pinned | None,
    *,
    is_long: bool,
) -> Order:
    """Write the order of a job; its lane is chosen by all that its worker will compute."""
    expected = _estimate(technique, call)
    is_long = is_long or _exceeds(expected, current().settings.max_fast_teraflop)
    webhook = None
    if options.webhook_url:
        secret = options.webhook_secret or webhooks.new_secret()
        webhook = {"url": options.webhook_url, "secret": secret}
    return Order(
        call=_record(call),
        owner=owner(),
        lane="jobs" if is_long else "fast",
        id=new_id(),
        options=options.model_dump(mode="json", exclude={"webhook_url", "webhook_secret"}),
        webhook=webhook,
        max_active=current_key().max_active,
        cache=_cache_name(call, pinned.digest if pinned else "", weights),
        estimate=expected,
    )


def _expected(technique: Technique, call: Call) -> dict[str, Any]:
    """Say what the call will take; nothing of techniques that take a moment."""
    if technique.work is None:
        return {}
    params: Params = validate(technique.params_type, call.params)
    sizes = _Sizes(by_slot(call.inputs), technique.animates)
    model = current().networks.sketch(call.model) if technique.takes_model else None
    return estimate(technique, params, sizes, model)


@dataclasses.dataclass(frozen=True, eq=False)
class _Sizes(Mapping[str, Sequence[tuple[int, int]]]):
    """Heights and widths by slot, read where they are asked for: explanations never ask."""

    pictures: Mapping[str, Sequence[bytes]]
    animates: bool

    def __getitem__(self, slot: str) -> Sequence[tuple[int, int]]:
        headers = map(Image.probe, self.pictures[slot])
        frames = [(header, header.frames if self.animates else 1) for header in headers]
        return [(header.height, header.width) for header, count in frames for _ in range(count)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)


def _estimate(technique: Technique, call: Call) -> dict[str, Any]:
    """Say what the call will take, and how long; refuse more than a caller may ask for."""
    expected, settings = _expected(technique, call), current().settings
    if not expected:
        return {}
    check(
        expected["gigaflop"] * 1e9,
        expected["megabytes"] * 1e6,
        most=settings.max_teraflop * 1e12,
        most_memory=settings.max_megabytes * 1e6,
    )
    if not expected["gigaflop"]:
        return expected
    seconds = current().stores.speeds.seconds(
        technique.engine(call.params), call.model, gigaflop=expected["gigaflop"]
    )
    return expected if seconds is None else {**expected, "seconds": seconds}


def _record(call: Call) -> dict[str, Any]:
    """Return what is kept of a call; its pictures lie elsewhere."""
    return dataclasses.asdict(call) | {"inputs": list(call.inputs), "accept": list(call.accept)}


def _cache_name(call: Call, *also: str) -> str:
    """Name what a call computes: pictures, parameters, seed, version, collection and weights."""
    computed = dataclasses.asdict(dataclasses.replace(call, inputs={}, accept=()))
    return _digest(lantern.__version__, owner(), computed, _pictures(call), *also)


def _fingerprint(call: Call, options: JobOptions) -> str:
    """Name what a caller sent.

    Not its collection and weights, nor our version: a call that is sent again finds its job,
    whatever came since. Nor what it accepts, which only chooses the form of the answer.
    """
    sent = {name: part for name, part in _record(call).items() if name != "accept"}
    return _digest(sent, _pictures(call), options.model_dump(mode="json"))


def _pictures(call: Call) -> dict[str, str]:
    return {slot: hashlib.sha256(data).hexdigest() for slot, data in call.inputs.items()}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _keep_inputs(
    context: Context, job_id: str, call: Call, pinned: Pinned | None, trained: Trained | None
) -> None:
    ttl_s, blobs = JOBLESS_S, context.stores.blobs
    # first, because it may have expired, and then nothing is to be kept
    if trained is not None and not blobs.copy(
        trained.job_id, trained.blob, job_id, ttl_s=ttl_s, as_name=job_bytes.DECODER
    ):
        raise unknown()
    for slot, data in call.inputs.items():
        blobs.put(job_id, job_bytes.input_name(slot), data, ttl_s=ttl_s)
    if pinned is not None and pinned.manifest is not None:
        blobs.put(job_id, job_bytes.COLLECTION, pinned.manifest.pack(), ttl_s=ttl_s)


def _copied(context: Context, known: Job, order: Order) -> dict[str, Any] | None:
    """Give a new job what an old one made; None where some of it is gone.

    Raises:
        TooMuchKept: the caller has no room for another copy.
    """
    if known.result is None or "bytes" not in known.result:
        return None
    style = known.result["facts"].get("style") if known.call["technique"] == TRAINER else None
    if style is not None and context.styles.own.entry(style) is None:  # it was deleted since
        return None
    context.stores.kept.take(order.owner, order.id, known.result["bytes"])
    for name in job_bytes.result_names(known.result):
        if not context.stores.blobs.copy(known.id, name, order.id, ttl_s=JOBLESS_S):
            context.stores.kept.forget(order.owner, order.id)
            return None
    return {**known.result, "facts": {**known.result["facts"], "cached": True}}


def _keep_on(context: Context, order: Order) -> None:
    """Let the bytes of a job that was made last as long as it may need them."""
    settings, blobs = context.settings, context.stores.blobs
    blobs.expire(order.id, job_bytes.given_names(order.call), settings.live_ttl_s)
    blobs.expire(order.id, job_bytes.result_names(order.result), settings.result_ttl_s)


def _drop(context: Context, order: Order) -> None:
    """Delete what was stored for a job that was not made."""
    names = [*job_bytes.given_names(order.call), *job_bytes.result_names(order.result)]
    context.stores.blobs.delete(order.id, *names)
    context.stores.kept.forget(order.owner, order.id)


def _replayed(job: Job, options: JobOptions, prefer: Mapping[str, str]) -> flask.Response:
    response = _answer(job, options, prefer)
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _answer(job: Job, options: JobOptions, prefer: Mapping[str, str]) -> flask.Response:
    # a picture could not tell the secret that was made for the caller, and nothing else will
    as_document = bool(options.webhook_url and not options.webhook_secret)
    applied = "respond-async" if "respond-async" in prefer else ""
    response = None
    seconds = wait_s(prefer)
    if seconds and (waited := current().waited(job, left_s(prefer))):
        job, applied = waited, f"wait={seconds}"
        is_done = job.status == "succeeded" and not as_document
        if is_done and has_form(job, flask.request.accept_mimetypes):
            response = result_response(job, flask.request.accept_mimetypes)
    if response is None:
        body = document(job)
        if job.webhook:
            body["webhook"] = dict(job.webhook)  # no other answer shows the secret
        response = flask.jsonify(body)
        response.status_code = 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if applied:
        response.headers["Preference-Applied"] = applied
    return response


def _idempotency_key() -> str:
    key = flask.request.headers.get("Idempotency-Key", "")
    if len(key) > LONGEST_KEY:
        detail = f"Idempotency-Key may have at most {LONGEST_KEY} characters"
        raise Problem(400, "invalid-header", detail)
    return _digest(owner(), flask.request.path, key) if key else ""
