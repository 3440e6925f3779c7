"""All scripts of the job store at random, on a real Redis."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import redis

from services.jobs import (
    ACTIVE,
    JOB,
    QUEUED,
    RUNNING,
    Claim,
    IdempotencyConflict,
    Jobs,
    Order,
    QueueFull,
    QuotaReached,
)
from services.outbox import OUTBOX
from services.record import FINAL, LANES, LIVE, Job, Status, new_id
from tests.services.job_deeds import (
    DEADLINES,
    HOOK,
    RESULT,
    MakeJobs,
    end_time,
    order,
)


@dataclass
class Walk:
    """Three workers and some callers who do whatever comes to their minds."""

    jobs: Jobs
    client: redis.Redis
    dice: random.Random
    made: dict[str, Job] = field(default_factory=dict)
    orders: dict[str, tuple[Order, str, str]] = field(default_factory=dict)
    """What each job was made from: the order, its idempotency key and fingerprint."""
    held: list[Claim] = field(default_factory=list)
    """Every claim there ever was: most are out of date, and used all the same."""
    seen: dict[str, Status] = field(default_factory=dict)
    """The status each job had when last looked at."""
    fences: dict[str, int] = field(default_factory=dict)
    won: Counter[str] = field(default_factory=Counter)

    def step(self) -> str:
        """Do one thing; return what was done."""
        actions: dict[Callable[[], object], int] = {
            self.create: 9, self.claim: 9, self.beat: 6, self.suspend: 4, self.finish: 3,
            self.cancel: 1, self.pause: 3, self.resume: 4, self.delete: 1, self.release: 1,
            self.die: 3, self.be_late: 1, self.reap: 4, self.repeat: 2,
        }  # fmt: skip
        (action,) = self.dice.choices(list(actions), list(actions.values()))
        action()
        return getattr(action, "__name__", "")

    def create(self) -> None:
        said = self.dice.choice(["", "", "", "", "a", "b"])
        fingerprint = self.dice.choice("11112")
        chosen = order(
            id=new_id(),
            priority=self.dice.choice(["low", "normal", "high"]),
            owner=self.dice.choice(["me", "you"]),
            lane=self.dice.choice(LANES),
            webhook=self.dice.choice([None, HOOK]),
            cache=self.dice.choice(["", "x", "y"]),
            result=self.dice.choice([None, None, None, RESULT]),
        )
        try:
            job, is_new = self.jobs.create(chosen, key=said, fingerprint=fingerprint)
        except (IdempotencyConflict, QuotaReached, QueueFull):
            return
        self.made[job.id] = job
        if is_new:
            self.orders[job.id] = (chosen, said, fingerprint)

    def repeat(self) -> None:
        """Send an order again, as a client does whose answer was lost."""
        job_id = self.some_job()
        if job_id in self.made:
            chosen, said, fingerprint = self.orders[job_id]
            before = self.jobs.get(job_id)
            again = self.jobs.create(chosen, key=said, fingerprint=fingerprint)
            assert again == (before, True)

    def claim(self) -> None:
        worker = self.dice.choice(["worker-1", "worker-2", "worker-3"])
        claimed = self.jobs.claim(self.dice.choice(LANES), worker)
        if claimed is not None:
            assert claimed not in self.held
            self.held.append(claimed)

    def beat(self) -> None:
        if claimed := self.some_claim():
            self.jobs.beat(
                claimed,
                progress=self.dice.choice([None, {"done": 1}]),
                preview=self.dice.choice([None, 0, 3]),
                checkpoint=self.dice.choice(["", "", "state"]),
            )

    def suspend(self) -> None:
        if claimed := self.some_claim():
            self.jobs.suspend(claimed)

    def finish(self) -> None:
        if claimed := self.some_claim():
            end = self.dice.choice(FINAL)
            if self.jobs.finish(claimed, end, result={"fence": claimed.fence}):
                self.won[claimed.job_id] += 1
                found = self.jobs.get(claimed.job_id)
                assert found is not None
                assert (found.status, found.result) == (end, {"fence": claimed.fence})

    def cancel(self) -> None:
        self.jobs.cancel(self.some_job())

    def pause(self) -> None:
        self.jobs.pause(self.some_job())

    def resume(self) -> None:
        self.jobs.resume(self.some_job())

    def delete(self) -> None:
        job = self.jobs.get(self.some_job())
        if job is not None and job.is_final:
            self.jobs.delete(job)
            del self.made[job.id]

    def release(self) -> None:
        self.jobs.release("worker-1")

    def reap(self) -> None:
        self.jobs.reap()

    def die(self) -> None:
        """Let a lease end."""
        running = cast(list[bytes], self.client.zrange(RUNNING, 0, -1))
        if running:
            self.client.zadd(RUNNING, {self.dice.choice(running): 1})

    def be_late(self) -> None:
        """Let a deadline pass."""
        live = cast(list[bytes], self.client.zrange(DEADLINES, 0, -1))
        if live:
            end_time(self.client, self.made[self.dice.choice(live).decode()])

    def some_job(self) -> str:
        return self.dice.choice([*self.made, "job_unknown"])

    def some_claim(self) -> Claim | None:
        """Return a claim, a late one rather than an early one."""
        recent = self.held[-4:] if self.dice.random() < 0.7 else self.held
        return self.dice.choice(recent) if recent else None

    def check(self) -> None:
        """Hold what is there against what must be true of it at any time."""
        pipe = self.client.pipeline()
        for job_id in self.made:
            pipe.hgetall(JOB + job_id)
            pipe.xrange(JOB + job_id + ":events")
            pipe.ttl(JOB + job_id)
        for key in (RUNNING, DEADLINES, OUTBOX, QUEUED + "fast", QUEUED + "jobs"):
            pipe.zrange(key, 0, -1)
        pipe.zrange(ACTIVE + "me", 0, -1)
        pipe.zrange(ACTIVE + "you", 0, -1)
        answers = pipe.execute()
        facts = dict(zip(self.made, zip(*[iter(answers[:-7])] * 3, strict=True), strict=True))
        lists = [{name.decode() for name in members} for members in answers[-7:]]
        running, deadlines, outbox, fast, slow, mine, yours = lists
        status = {job_id: of[b"status"].decode() for job_id, (of, _, _) in facts.items()}
        owner = {job_id: job.owner for job_id, job in self.made.items()}
        lane = {job_id: job.lane for job_id, job in self.made.items()}
        live = {job_id for job_id, state in status.items() if state in LIVE}
        assert running == {job_id for job_id in live if status[job_id] == "running"}
        queued = {job_id for job_id in live if status[job_id] == "queued"}
        assert fast == {job_id for job_id in queued if lane[job_id] == "fast"}
        assert slow == {job_id for job_id in queued if lane[job_id] == "jobs"}
        assert deadlines == live
        assert mine == {job_id for job_id in live if owner[job_id] == "me"}
        assert yours == {job_id for job_id in live if owner[job_id] == "you"}
        hooked = {job_id for job_id, (of, _, _) in facts.items() if b"webhook" in of}
        assert outbox & self.made.keys() == hooked - live
        for job_id, (of, entries, ttl_s) in facts.items():
            is_final = job_id not in live
            before = self.seen.get(job_id)
            assert before not in FINAL or before == status[job_id]
            self.seen[job_id] = cast(Status, status[job_id])
            done = [event for _, event in entries if event[b"event"] == b"done"]
            assert len(done) == is_final
            assert not is_final or entries[-1][1] in done
            assert not done or json.loads(done[0][b"data"]) == {"status": status[job_id]}
            assert (ttl_s > 0) == is_final
            fence = int(of[b"fence"])
            assert fence >= self.fences.get(job_id, 0)
            self.fences[job_id] = fence
            assert self.won[job_id] <= is_final
            assert b"wish" not in of or status[job_id] == "running"
            assert int(of[b"attempts"]) <= fence

    def end_everything(self) -> None:
        """Let all workers die and new ones do what is left."""
        while live := [job_id for job_id, state in self.seen.items() if state in LIVE]:
            for job_id in live:
                self.jobs.resume(job_id)
                if self.client.zscore(RUNNING, job_id) is not None:
                    self.client.zadd(RUNNING, {job_id: 1})
            self.jobs.reap()
            for lane in LANES:
                while claimed := self.jobs.claim(lane, "last"):
                    assert self.jobs.finish(claimed, "succeeded")
            self.check()


class TestAtRandom:
    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_happens_the_records_agree(
        self, make_jobs: MakeJobs, client: redis.Redis, seed: int
    ) -> None:
        jobs = make_jobs(max_active=25, max_queued=20, lease_s=60)
        walk = Walk(jobs, client, random.Random(seed))
        done: list[str] = []
        for _ in range(400):
            done.append(walk.step())
            try:
                walk.check()
            except AssertionError as error:
                raise AssertionError(f"after {done[-8:]}") from error
        walk.end_everything()
        assert len(walk.seen) > 20
        assert set(walk.seen.values()) <= set(FINAL)
