"""The forms of the documents that the interface answers with, as JSON Schema."""

from __future__ import annotations

from services.record import FINAL, LIVE

STATES = {"enum": [*LIVE, *FINAL]}
TEXT = {"type": "string"}
MOMENT = {"type": ["string", "null"], "format": "date-time"}
PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "request_id": TEXT,
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"pointer": TEXT, "detail": TEXT}},
        },
    },
}
RESULT = {
    "type": "object",
    "required": ["technique", "params", "seed", "facts", "artifacts"],
    "properties": {
        "technique": TEXT,
        "params": {"type": "object"},
        "seed": {"type": "integer"},
        "facts": {
            "type": "object",
            "properties": {
                "warnings": {"type": "array", "items": TEXT},
                "cached": {"type": "boolean", "description": "it was computed for an earlier call"},
            },
        },
        "artifacts": {"type": "array", "items": {"type": "object"}},
    },
}
JOB = {
    "type": "object",
    "required": [
        *("id", "technique", "status", "created_at", "attempts", "params", "model", "seed"),
        *("versions", "links"),
    ],
    "properties": {
        "id": TEXT,
        "technique": TEXT,
        "status": STATES,
        "priority": {"enum": ["low", "normal", "high"]},
        "created_at": {"type": "string", "format": "date-time"},
        "started_at": MOMENT,
        "finished_at": MOMENT,
        "expires_at": MOMENT,
        "deadline_at": MOMENT,
        "attempts": {"type": "integer"},
        "estimate": {
            "type": ["object", "null"],
            "description": "at most; seconds are a guess from such jobs, once there were any",
            "properties": {
                name: {"type": "number"} for name in ("passes", "gigaflop", "megabytes", "seconds")
            },
        },
        "progress": {
            "type": ["object", "null"],
            "properties": {
                "done": {"type": "integer", "description": "steps"},
                "total": {"type": "integer"},
                "fraction": {"type": "number", "minimum": 0, "maximum": 1},
                "loss": {"type": ["number", "null"]},
                "eta_s": {"type": ["number", "null"], "description": "seconds that are left"},
            },
        },
        "params": {"type": "object"},
        "model": {**TEXT, "description": "the network"},
        "seed": {"type": "integer"},
        "versions": {"type": "object", "additionalProperties": TEXT},
        "preview": {
            "type": ["object", "null"],
            "properties": {"step": {"type": "integer"}, "url": TEXT},
        },
        "result": {**RESULT, "type": ["object", "null"]},
        "error": {
            "type": ["object", "null"],
            "properties": {
                **dict.fromkeys(("type", "title", "detail"), TEXT),
                "retryable": {"type": "boolean"},
            },
        },
        "links": {"type": "object", "additionalProperties": TEXT},
        "webhook": {
            "type": "object",
            "description": "in the answer to the call alone, also to one that is sent again",
            "properties": {"url": TEXT, "secret": TEXT},
        },
    },
}
WEBHOOK = {
    "type": "object",
    "description": "whom to tell of the end of the job, after Standard Webhooks",
    "required": ["url"],
    "properties": {"url": TEXT, "secret": TEXT},
}
COLLECTION = {
    "type": "object",
    "required": ["id", "name", "built_in", "count", "bytes", "digest", "expires_at", "links"],
    "properties": {
        "id": TEXT,
        "name": TEXT,
        "built_in": {"type": "boolean"},
        "count": {"type": "integer", "description": "pictures in it"},
        "bytes": {"type": "integer"},
        "digest": {**TEXT, "description": "SHA-256 of names and contents"},
        "created_at": MOMENT,
        "expires_at": MOMENT,
        "links": {"type": "object"},
        "pictures": {"type": "array", "items": {"type": "object"}, "description": "of this page"},
        "next": {"type": ["string", "null"], "description": "`cursor` of the next page"},
        "added": {"type": "integer", "description": "by this upload"},
        "replaced": {"type": "integer", "description": "by another picture of the same name"},
        "unchanged": {"type": "integer", "description": "sent again"},
        "skipped_count": {"type": "integer", "description": "what was no picture, or no good one"},
        "skipped": {
            "type": "array",
            "description": "the first hundred of them",
            "items": {"type": "object", "properties": {"name": TEXT, "reason": TEXT}},
        },
    },
}
SCHEMAS = {
    "Problem": PROBLEM,
    "Job": JOB,
    "Result": RESULT,
    "Collection": COLLECTION,
}
