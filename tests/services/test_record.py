"""The record of a job: its id, its options, how it is read."""

from __future__ import annotations

import json
import time
from typing import Any

import pydantic
import pytest

from services.record import (
    FINAL,
    HEAD_START_MS,
    LIVE,
    LONGEST_DEADLINE_S,
    JobOptions,
    new_id,
    parse,
)

LEAST = {
    b"id": b"job_1",
    b"owner": b"me",
    b"lane": b"fast",
    b"status": b"queued",
    b"call": b'{"technique": "t"}',
    b"created_ms": b"1700000000123",
    b"attempts": b"0",
}


class TestId:
    def test_ids_are_unique_and_sort_by_age(self) -> None:
        ids = [new_id() for _ in range(500)]
        assert len(set(ids)) == 500
        assert [name[:16] for name in ids] == sorted(name[:16] for name in ids)

    def test_an_id_begins_with_its_time(self) -> None:
        before = int(time.time() * 1000)
        name = new_id()
        assert before <= int(name[4:16], 16) <= int(time.time() * 1000)
        assert name.startswith("job_")
        assert len(name) == 36


class TestParse:
    def test_a_new_record_has_only_what_is_known(self) -> None:
        job = parse(LEAST)
        assert (job.id, job.owner, job.lane, job.status) == ("job_1", "me", "fast", "queued")
        assert job.call == {"technique": "t"}
        assert job.created_at == 1700000000.123
        assert job.options == {}
        assert job.attempts == 0
        for name in (
            "started_at", "finished_at", "expires_at", "deadline_at", "progress", "preview_step",
            "checkpoint", "webhook", "result", "error",
        ):  # fmt: skip
            assert getattr(job, name) is None, name

    def test_times_are_seconds(self) -> None:
        names = ("started", "finished", "expires", "deadline")
        stamps = {f"{name}_ms".encode(): b"1700000001500" for name in names}
        job = parse(LEAST | stamps)
        assert {getattr(job, f"{name}_at") for name in names} == {1700000001.5}

    def test_documents_come_back_whole(self) -> None:
        document: dict[str, Any] = {"text": 'ü "\\" \x00 🌌', "list": [1, 2.5, None, {}]}
        for name in ("options", "progress", "webhook", "result", "error"):
            job = parse(LEAST | {name.encode(): json.dumps(document).encode()})
            assert getattr(job, name) == document

    def test_the_first_step_is_a_step(self) -> None:
        assert parse(LEAST | {b"preview_step": b"0"}).preview_step == 0

    def test_what_the_scripts_need_for_themselves_does_not_disturb(self) -> None:
        extra = dict.fromkeys((b"fence", b"failures", b"order", b"lease_ms", b"wish"), b"1")
        assert parse(LEAST | extra) == parse(LEAST)

    @pytest.mark.parametrize("status", [*LIVE, *FINAL])
    def test_a_job_is_live_or_final(self, status: str) -> None:
        assert parse(LEAST | {b"status": status.encode()}).is_final == (status in FINAL)
        assert not set(LIVE) & set(FINAL)


class TestOptions:
    def test_nothing_needs_to_be_said(self) -> None:
        options = JobOptions()
        assert (options.priority, options.deadline_s, options.webhook_url) == ("normal", None, None)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"priority": "urgent"},
            {"deadline_s": 0},
            {"deadline_s": -1},
            {"deadline_s": LONGEST_DEADLINE_S + 1},
            {"deadline_s": float("nan")},
            {"preview_every_s": 0.4},
            {"preview_every_s": float("inf")},
            {"preview_size": 31},
            {"preview_size": 1025},
            {"webhook_url": "https://" + 2048 * "x"},
            {"webhook_secret": 121 * "x"},
            {"unknown": 1},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(pydantic.ValidationError):
            JobOptions(**wrong)

    def test_a_rank_is_an_hour(self) -> None:
        ranks = [HEAD_START_MS[name] for name in ("low", "normal", "high")]
        assert ranks == [-3_600_000, 0, 3_600_000]
