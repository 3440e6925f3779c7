"""One campaign: a stack, a load on it, faults one after the other, and what came of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from services.outbox import OUTBOX
from services.processes import free_ports
from services.settings import Settings
from tests.chaos import client, stories
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.ledger import Blow, Ledger
from tests.chaos.load import Load
from tests.chaos.memory import Scales
from tests.chaos.receiver import receiver
from tests.chaos.site import Site, wait_until
from tests.chaos.verdict import Findings

WHOLE_WITHIN_S, RESUMED_WITHIN_S = 90.0, 40.0
# readiness is remembered for a second
FIRST_LOOK_S = 1.2
REST_S = (0.2, 1.0)
DRAIN_S = 180.0
DELIVERED_WITHIN_S = 100.0


@dataclass(frozen=True)
class Plan:
    """How much to break; with no `kills`, each fault strikes once; `only` names one of them."""

    kills: int = 0
    seed: int = 1
    port: int = 0
    lease_s: float = Settings.lease_s
    warm_up_s: float = 0.0
    rest_s: float = 0.0
    only: str = ""
    say: Callable[[str], None] = print

    def schedule(self) -> Iterator[Fault]:
        """Go through the faults to inject."""
        chance, killed = random.Random(f"faults {self.seed}"), 0
        if not self.kills:
            brief = [fault for fault in FAULTS if fault.in_brief]
            yield from chance.sample(brief, len(brief))
        among = [fault for fault in FAULTS if self.only in ("", fault.name)]
        while killed < self.kills:
            fault = chance.choices(among, [fault.weight for fault in among])[0]
            killed += fault.kills
            yield fault


def run(folder: Path, plan: Plan) -> Findings:
    """Start a stack in a folder, break it again and again, tell what was seen."""
    began = time.monotonic()
    port = plan.port or free_ports(1)[0]
    ledger = Ledger()
    site = Site.open(folder, port, ledger, seed=plan.seed, lease_s=plan.lease_s)
    try:
        with receiver(ledger) as hook, Scales(site) as scales:
            load = Load(site.stack, ledger, seed=plan.seed, hook=hook)
            load.take_references()
            plan.say(f"      undisturbed results after {time.monotonic() - began:.0f} s")
            load.start()
            warm = _span(plan.warm_up_s)
            with ledger.crash_noted("saboteur"):
                for number, fault in enumerate(plan.schedule(), 1):
                    plan.say(f"{number:4d}  {_told(_strike(site, fault))}")
            last = _span(plan.rest_s)
            growth = scales.growth(warm, last)
            drain_s = load.drain(DRAIN_S)
            _await_deliveries(ledger)
        found = _findings(site, drain_s)
        found.growth = growth
        found.minutes = (time.monotonic() - began) / 60
        busy = os.getloadavg()[0] / (os.cpu_count() or 1)
        found.remarks += [f"load average per core, last minute: {busy:.1f}", *_logged(site)]
        return found
    finally:
        site.stack.stop()


def _span(seconds: float) -> tuple[float, float]:
    """Let time pass; return the second half of it, when all is warm."""
    began = time.time()
    time.sleep(seconds)
    return began + seconds / 2, began + seconds


def _strike(site: Site, fault: Fault) -> Blow:
    """Inject a fault and wait until the stack has got over it."""
    try:
        blow = fault.inject(site)
    except (psutil.Error, redis.RedisError, OSError, IndexError) as error:
        blow = Blow(fault.name, time.time(), missed=f"not injected: {error!r}")
    time.sleep(FIRST_LOOK_S)
    if not wait_until(site.is_whole, WHOLE_WITHIN_S):
        blow.missed += f" not whole within {WHOLE_WITHIN_S:.0f} s: {site.stack.checks()}"
    blow.ready_at = time.time()
    if not wait_until(lambda: _resumed(site, blow), RESUMED_WITHIN_S):
        blow.missed += f" a job did not run again within {RESUMED_WITHIN_S:.0f} s"
    site.ledger.blows.append(blow)
    time.sleep(site.chance.uniform(*REST_S))
    return blow


def _resumed(site: Site, blow: Blow) -> bool:
    try:
        return all(map(site.resumed, blow.victims))
    except (redis.RedisError, OSError):
        return False


def _told(blow: Blow) -> str:
    parts = [blow.fault, blow.detail, f"whole after {blow.ready_at - blow.at:.1f} s"]
    if blow.victims:
        parts.append(f"{len(blow.victims)} jobs hit, seen to at {time.time() - blow.at:.1f} s")
    return "; ".join(filter(None, [*parts, blow.missed]))


def _await_deliveries(ledger: Ledger) -> None:
    wanted = {entry.id for entry in ledger.entries if entry.has_webhook and entry.is_over}
    wait_until(lambda: wanted <= ledger.deliveries.keys(), DELIVERED_WITHIN_S)


def _findings(site: Site, drain_s: float) -> Findings:
    ledger = site.ledger
    ids = [entry.id for entry in ledger.entries]
    missing = [
        entry.id
        for entry in ledger.entries
        if entry.has_webhook and entry.id not in ledger.deliveries
    ]
    with site.store("redis") as store:
        told = stories.read(store, ids)
        due = {job_id: store.zscore(OUTBOX, job_id) for job_id in missing}
    undelivered = {
        job_id: "not in the outbox" if at is None else f"due in {at / 1000 - time.time():.0f} s"
        for job_id, at in due.items()
    }
    statuses = {job_id: _status(site, job_id) for job_id in ids}
    return Findings(ledger, told, statuses, undelivered, drain_s=drain_s)


def _status(site: Site, job_id: str) -> str:
    response = client.persistently(lambda: site.stack.get(f"/v1/jobs/{job_id}"))
    if response is None or response.status != 200:
        return ""
    return str(client.document(response)["status"])


def _logged(site: Site) -> list[str]:
    """Count what the logs hold that should not be there."""
    logs = sorted((site.stack.run_dir / "logs").glob("*.log"))
    counts = {path.name: path.read_text(errors="replace").count("Traceback") for path in logs}
    return [f"tracebacks in {name}: {count}" for name, count in counts.items() if count]
