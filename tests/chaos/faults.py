"""What goes wrong: each fault strikes the stack once, and says whom it hit."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import redis
import urllib3

from services.jobs import QUEUED, RUNNING
from services.outbox import OUTBOX
from services.queues import queue_of
from services.record import LANES
from tests.chaos import client
from tests.chaos.kinds import job_kinds
from tests.chaos.ledger import Blow
from tests.chaos.site import LONG_WORKERS, Site, kill_group, wait_until

DOWN_S = 3.0
PAST_LEASE_S = 4.0
FULL_S = 5.0
HOUR_MS = 3_600_000
MESSAGE_WITHIN_S = 4.0


@dataclass(frozen=True)
class Fault:
    """One kind of fault; `kills` says whether it kills a process."""

    name: str
    strike: Callable[[Site, Blow], None]
    weight: int
    kills: bool = True
    stops_gateway: bool = False
    in_brief: bool = True
    """Whether the short form has it too."""

    def inject(self, site: Site) -> Blow:
        """Strike once; return what happened, once what the fault itself brings is over."""
        blow = Blow(self.name, time.time(), int(self.kills), stops_gateway=self.stops_gateway)
        try:
            self.strike(site, blow)
        finally:
            blow.ended = time.time()
        return blow


# --- Workers


def kill_pool_child(site: Site, blow: Blow) -> None:
    """Kill the process that computes; its parent stays."""
    worker = site.choose_worker()
    _hit(site, blow, worker)
    for process in site.children(worker):
        _kill(process)


def kill_worker(site: Site, blow: Blow) -> None:
    """Kill a worker's parent and pool at once."""
    worker = site.choose_worker()
    _hit(site, blow, worker)
    kill_group(site.stack.part(worker))


def kill_worker_parent(site: Site, blow: Blow) -> None:
    """Kill a worker's parent alone: what it forked is left behind for a moment."""
    worker = site.choose_worker()
    _hit(site, blow, worker)
    _kill(site.stack.part(worker))


def kill_courier(site: Site, blow: Blow) -> None:
    """Kill the worker that delivers to webhooks."""
    kill_group(site.stack.part("courier"))


def stop_worker(site: Site, blow: Blow) -> None:
    """Stop a worker until its lease is over and its job given away, then let it go on."""
    worker = site.choose_worker(LONG_WORKERS)
    group = [site.stack.part(worker), *site.children(worker)]
    _hit(site, blow, worker)
    for process in group:
        process.suspend()
    try:
        time.sleep(site.settings.lease_s + PAST_LEASE_S)
    finally:
        for process in group:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _hit(site: Site, blow: Blow, worker: str) -> None:
    blow.victims, blow.detail = site.held_by(worker), worker
    blow.at = time.time()


def _kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


# --- Gateway, TorchServe, supervisor


def kill_gateway_process(site: Site, blow: Blow) -> None:
    """Kill one of the processes that answer; another one goes on."""
    _kill(site.chance.choice(site.children("gateway")))


def kill_gateway(site: Site, blow: Blow) -> None:
    """Kill the gateway's master."""
    _kill(site.stack.part("gateway"))


def kill_model_worker(site: Site, blow: Blow) -> None:
    """Kill one of the processes in which TorchServe computes."""
    _kill(site.chance.choice(site.model_workers()))


def kill_torchserve(site: Site, blow: Blow) -> None:
    """Kill TorchServe's frontend, the Java process."""
    for process in site.children("torchserve"):
        _kill(process)


def kill_supervisor(site: Site, blow: Blow) -> None:
    """Kill the supervisor, and start the stack again as its operator would."""
    site.spare_the_fragile()
    _hit(site, blow, "")
    site.stack.process.kill()
    site.stack.process.wait()
    site.start_again()


# --- The two Redis


def down(name: str) -> Callable[[Site, Blow], None]:
    """Return the fault that kills a Redis and keeps it down.

    Its configuration is out of the way for three seconds, so that each restart fails; the
    supervisor's back-off adds to that.
    """

    def strike(site: Site, blow: Blow) -> None:
        config = site.stack.run_dir / name / "redis.conf"
        hidden = config.with_suffix(".hidden")
        process = site.stack.part(name)
        config.rename(hidden)
        try:
            _kill(process)
            time.sleep(DOWN_S)
        finally:
            hidden.rename(config)
        wait_until(lambda: site.answers(name), 30)
        blow.detail = f"down {time.time() - blow.at:.1f} s"

    return strike


def restart(name: str) -> Callable[[Site, Blow], None]:
    """Return the fault that shuts a Redis down in order, under its clients' feet."""

    def strike(site: Site, blow: Blow) -> None:
        with site.store(name) as store:
            store.shutdown(nosave=True)
        wait_until(lambda: site.answers(name), 30)
        blow.detail = f"down {time.time() - blow.at:.1f} s"

    return strike


def fill_store(site: Site, blow: Blow) -> None:
    """Leave the blobs no room for some seconds: new work is refused, what is there is read.

    Jobs that end meanwhile wait with their results.
    """
    old = [entry for entry in site.ledger.entries if len(entry.digest) == 64]
    with site.store("blobs") as store:
        most = str(store.config_get("maxmemory")["maxmemory"])
        used = store.info("memory")["used_memory"]
        store.config_set("maxmemory", used)
        try:
            time.sleep(FULL_S / 2)
            _probe_full(site, f"/v1/jobs/{old[-1].id}/result" if old else "")
            time.sleep(FULL_S / 2)
        finally:
            store.config_set("maxmemory", most)


def _probe_full(site: Site, result: str) -> None:
    kind = job_kinds()[1]
    response, wrong = client.ask(lambda: client.post(site.stack, kind, {"prefer": "respond-async"}))
    refused = response is not None and response.status == 507
    site.ledger.note("full store: new work " + ("got 507" if refused else f"got {wrong or 'in'}"))
    if result:
        try:
            status = str(site.stack.get(result).status)
        except urllib3.exceptions.HTTPError as error:
            status = type(error).__name__
        site.ledger.note("full store: an old result was " + ("read" if status == "200" else status))


# --- Messages


def lose_message(site: Site, blow: Blow) -> None:
    """Lose every message that waits in one queue."""
    with site.store("redis") as store:
        name = _queue_with_messages(store)
        blow.detail = f"{store.llen(name)} lost" if name else "none waited"
        if name:
            store.delete(name)


def double_message(site: Site, blow: Blow) -> None:
    """Send a message again: one that waits, else one that is being worked on."""
    with site.store("redis") as store:
        name = _queue_with_messages(store)
        taken = store.hvals("unacked") if not name else []
        if name:
            store.rpush(name, store.lindex(name, 0) or b"")
        elif taken:
            body, _, name = json.loads(taken[0])
            store.rpush(str(name), json.dumps(body))
        blow.detail = f"doubled in {name}" if name else "none there"


def _queue_with_messages(store: redis.Redis) -> str:
    names = [queue_of(lane) for lane in LANES]
    wait_until(lambda: any(store.llen(name) for name in names), MESSAGE_WITHIN_S)
    return next((name for name in names if store.llen(name)), "")


# --- The clock

MOVE_TIMES = """
local shift = tonumber(ARGV[1])
local jobs = redis.call('ZRANGE', KEYS[1], 0, -1)
for number, key in ipairs(KEYS) do
  local rows = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for at = 1, #rows, 2 do redis.call('ZINCRBY', key, shift, rows[at]) end
end
if redis.call('EXISTS', 'lantern:clock') == 1 then
  redis.call('INCRBY', 'lantern:clock', shift)
end
for _, id in ipairs(jobs) do
  for _, field in ipairs({'deadline_ms', 'order', 'created_ms', 'started_ms'}) do
    if redis.call('HEXISTS', 'lantern:job:' .. id, field) == 1 then
      redis.call('HINCRBY', 'lantern:job:' .. id, field, shift)
    end
  end
end
return #jobs
"""


def move_times(site: Site, shift_ms: int) -> None:
    """Move every time that is stored of live jobs: the same as moving the clock the other way.

    What Redis itself lets expire is left alone.
    """
    keys = ["lantern:jobs:deadlines", RUNNING, OUTBOX, *(QUEUED + lane for lane in LANES)]
    with site.store("redis") as store:
        store.eval(MOVE_TIMES, len(keys), *keys, shift_ms)


def clock_ahead(site: Site, blow: Blow) -> None:
    """Set the clock an hour ahead: every lease is over at once."""
    site.spare_the_fragile()
    move_times(site, -HOUR_MS)
    time.sleep(site.settings.lease_s / 2)


def clock_back(site: Site, blow: Blow) -> None:
    """Set the clock back an hour as a worker dies: its lease would last an hour more."""
    kill_worker(site, blow)
    move_times(site, HOUR_MS)


FAULTS = [
    Fault("pool child killed", kill_pool_child, 6),
    Fault("whole worker killed", kill_worker, 4),
    Fault("worker's parent killed", kill_worker_parent, 2, in_brief=False),
    Fault("courier killed", kill_courier, 2, in_brief=False),
    Fault("worker stopped past its lease", stop_worker, 2, kills=False),
    Fault("gateway process killed", kill_gateway_process, 8),
    Fault("gateway killed", kill_gateway, 3, stops_gateway=True, in_brief=False),
    Fault("TorchServe worker killed", kill_model_worker, 5),
    Fault("TorchServe frontend killed", kill_torchserve, 3),
    Fault("Redis of records killed, 3 s down", down("redis"), 4),
    Fault("Redis of blobs killed, 3 s down", down("blobs"), 4),
    Fault("supervisor killed", kill_supervisor, 2, stops_gateway=True),
    Fault("Redis of records restarted", restart("redis"), 2, kills=False),
    Fault("Redis of blobs restarted", restart("blobs"), 1, kills=False, in_brief=False),
    Fault("blob store full", fill_store, 1, kills=False),
    Fault("messages lost", lose_message, 2, kills=False),
    Fault("message doubled", double_message, 2, kills=False),
    Fault("clock set ahead 1 h", clock_ahead, 1, kills=False),
    Fault("clock set back 1 h, worker killed", clock_back, 1),
]
