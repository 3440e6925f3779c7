"""The tasks that messages call, and the caretaker that makes up for lost ones."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from services import clients
from services.jobs import Order
from services.queues import DELIVER, HOOKS, RUN_JOB, queue_of, send
from services.settings import Settings
from services.worker import caretaker, tasks
from services.worker.app import make_app
from services.worker.desk import Desk
from tests.services.worker.deeds import Submit, read


class TestTheTask:
    def run(self, queue: str) -> None:
        """Run the task as if a message had come by a queue."""
        tasks.run_job.push_request(delivery_info={"routing_key": queue}, hostname="worker")
        try:
            tasks.run_job.run("job_that_may_be_gone")
        finally:
            tasks.run_job.pop_request()

    def test_it_runs_the_job_that_is_first_in_its_lane(
        self, desk: Desk, submit: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "desk", lambda: desk)
        taken = submit("classify", {})
        self.run(queue_of("jobs"))
        assert read(desk, taken).status == "running"
        desk.stores.jobs.suspend(taken)
        self.run(queue_of("fast"))
        assert read(desk, taken).status == "queued"
        self.run(queue_of("jobs"))
        self.run(queue_of("jobs"))
        job = read(desk, taken)
        assert (job.status, job.attempts) == ("succeeded", 2)

    def test_a_message_carries_nothing_but_the_id(
        self, settings: Settings, client: redis.Redis
    ) -> None:
        import base64

        app = make_app(settings)
        send(app, "fast", "job_1")
        (raw,) = client.lrange(queue_of("fast"), 0, -1)
        message = json.loads(raw)
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        assert message["headers"]["task"] == RUN_JOB
        assert (args, kwargs) == (["job_1"], {})
        app.close()


class TestTheCaretaker:
    @pytest.fixture
    def app(self, settings: Settings) -> Iterator[Any]:
        made = make_app(settings)
        yield made
        made.close()

    def test_lost_messages_are_made_up_for_and_doubled_ones_do_no_harm(
        self, desk: Desk, app: Any, client: redis.Redis
    ) -> None:
        for _ in range(3):
            desk.stores.jobs.create(Order(call={"technique": "x", "inputs": []}, owner="nobody"))
        for _ in range(4):
            caretaker.reap(desk.stores, app)
            assert client.llen(queue_of("jobs")) == 3
        client.lpop(queue_of("jobs"))
        caretaker.reap(desk.stores, app)
        assert client.llen(queue_of("jobs")) == 3
        send(app, "jobs", "")
        caretaker.reap(desk.stores, app)
        assert client.llen(queue_of("jobs")) == 4

    def test_jobs_of_dead_processes_come_back_at_once(self, desk: Desk, app: Any) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        jobs = desk.stores.jobs
        for _ in range(3):
            jobs.create(Order(call={"technique": "x", "inputs": []}, owner="nobody"))
        holders = [f"mine:{dead.pid}", f"mine:{os.getpid()}", f"other:{dead.pid}"]
        claims = [jobs.claim("jobs", holder) for holder in holders]
        caretaker.care(desk.stores, app, "mine")
        words = [jobs.beat(claim) for claim in claims if claim]
        assert words == ["lost", "ok", "ok"]
        again = jobs.claim("jobs", "heir:1")
        assert again is not None
        assert claims[0] is not None
        assert again.job_id == claims[0].job_id

    def test_tidying_is_called_for_however_many_messages_wait(
        self, desk: Desk, app: Any, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(3):
            app.send_task(DELIVER, queue=HOOKS)
        for _ in range(2):
            caretaker.announce_tidying(client, app)
        assert client.llen(HOOKS) == 4, "it waits once"
        monkeypatch.setattr(clients, "own_stores", lambda: desk.stores)
        tasks.tidy.run()
        caretaker.announce_tidying(client, app)
        assert client.llen(HOOKS) == 5

    def test_a_chore_is_missed_while_redis_is_away(self, settings: Settings) -> None:
        away = clients.stores(dataclasses.replace(settings, redis_url="redis://127.0.0.1:1/0"))
        caretaker.quietly(lambda: away.jobs.greet("jobs", "worker", ttl_s=5))()
