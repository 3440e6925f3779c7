"""The invariants: what was promised, what was seen, and whether that meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from services.record import FINAL
from tests.chaos.ledger import Blow, Call, Entry, Ledger
from tests.chaos.memory import MB, Growth
from tests.chaos.stories import Story

RESUME_S, LOST_WORK_S, GROWTH = 15.0, 5.0, 0.10
JUST_BEFORE_S = 20.0


@dataclass(frozen=True)
class Row:
    """One line of the table; a breach of a grave one makes the run fail."""

    what: str
    goal: str
    seen: str
    met: bool
    grave: bool = False


@dataclass(frozen=True)
class Cost:
    """What one blow cost one job."""

    blow: Blow
    job_id: str
    seconds: float


@dataclass
class Findings:
    """All that is known in the end."""

    ledger: Ledger
    stories: Mapping[str, Story]
    statuses: Mapping[str, str]
    """The status of each job when asked once more; "" for one nobody knows."""
    undelivered: Mapping[str, str]
    """What is known of each job whose webhook got nothing."""
    growth: Sequence[Growth] = ()
    drain_s: float = 0.0
    minutes: float = 0.0
    remarks: list[str] = field(default_factory=list)

    # --- Jobs

    def lost(self) -> list[Entry]:
        """Return the jobs that did not come to an end that a caller may expect."""
        return [entry for entry in self.ledger.entries if self._is_lost(entry)]

    def _is_lost(self, entry: Entry) -> bool:
        status = self.statuses[entry.id]
        expected = {"succeeded"} | ({"canceled"} if entry.wish == "cancel" else set())
        return status not in expected

    def doubled(self) -> list[Entry]:
        """Return the jobs that changed after their end, or ended twice."""
        return [entry for entry in self.ledger.entries if self._is_doubled(entry)]

    def _is_doubled(self, entry: Entry) -> bool:
        seen = [status for _, status in entry.seen]
        finals = [status for status in seen if status in FINAL]
        after_end = seen[seen.index(finals[0]) :] if finals else []
        ends = set(after_end) | set(self.stories[entry.id].ends)
        changed = bool(finals) and self.statuses[entry.id] not in ("", finals[0])
        return len(self.stories[entry.id].ends) > 1 or len(ends) > 1 or changed

    def resumed(self) -> list[Entry]:
        """Return the jobs that succeeded in more than one attempt."""
        return [
            entry
            for entry in self.ledger.entries
            if len([e for e in self.stories[entry.id].events if e.says("running")]) > 1
            and self.statuses[entry.id] == "succeeded"
        ]

    def wrong(self) -> list[Entry]:
        """Return the jobs that succeeded with other bytes than an undisturbed run."""
        return [
            entry
            for entry in self.ledger.entries
            if self.statuses[entry.id] == "succeeded"
            and entry.digest != self.ledger.references[entry.kind]
        ]

    # --- Calls

    def failed_calls(self, *, gateway_down: bool) -> list[Call]:
        """Return the calls that failed even when sent again."""
        stops = [blow for blow in self.ledger.blows if blow.stops_gateway]
        return [
            call
            for call in self.ledger.calls
            if call.last_error
            and any(blow.touches(call.began, call.ended) for blow in stops) == gateway_down
        ]

    # --- Times

    def resumptions(self) -> list[Cost]:
        """Return the seconds from each blow until a job it had hit ran again."""
        return list(self._costs(Story.resumed_after))

    def losses(self) -> list[Cost]:
        """Return the seconds of work that each blow cost a job."""
        return list(self._costs(Story.lost_by))

    def _costs(self, measure: Callable[[Story, float], float | None]) -> Iterator[Cost]:
        for blow in self.ledger.blows:
            for victim in blow.victims:
                story = self.stories.get(victim.job_id)
                seconds = measure(story, blow.at) if story else None
                if seconds is not None:
                    yield Cost(blow, victim.job_id, seconds)


def rows(found: Findings, kills: int) -> list[Row]:
    """Return the table."""
    ledger = found.ledger
    jobs, calls = len(ledger.entries), len(ledger.calls)
    killed = sum(blow.kills for blow in ledger.blows)
    wrong, resumed = found.wrong(), found.resumed()
    late = [blow for blow in ledger.blows if blow.missed]
    failed, excused = (found.failed_calls(gateway_down=down) for down in (False, True))
    resumptions, losses = found.resumptions(), found.losses()
    webhooks = sum(entry.has_webhook for entry in ledger.entries)
    unordered = sum(entry.unordered_events for entry in ledger.entries)
    return [
        Row("random kills", f">= {kills}", _kills(ledger.blows), killed >= kills),
        _none("jobs lost", found.lost(), jobs, grave=True),
        _none("jobs with two final states", found.doubled(), jobs, grave=True),
        _none("jobs with other bytes than undisturbed", wrong, len(resumed), "resumed", grave=True),
        _none("interactive calls that failed twice", failed, calls),
        Row("  while the gateway was restarted", "-", f"{len(excused)} of {calls}", True),
        _longest("a job runs again", resumptions, RESUME_S),
        _longest("work lost", losses, LOST_WORK_S),
        _none("webhooks that heard nothing", list(found.undelivered), webhooks),
        Row("events twice or out of order", "0", str(unordered), unordered == 0),
        _none("faults the stack did not recover from", late, len(ledger.blows)),
        _growth(found.growth),
        _none("threads of this test that broke", ledger.crashes, 0, ""),
    ]  # fmt: skip


def _kills(blows: Sequence[Blow]) -> str:
    return f"{sum(blow.kills for blow in blows)} of {len(blows)} faults"


def _none(
    what: str, those: Sequence[object], of: int, kind: str = "", *, grave: bool = False
) -> Row:
    seen = f"{len(those)} of {of} {kind}".rstrip() if of else str(len(those))
    return Row(what, "0", seen, not those, grave)


def _growth(growth: Sequence[Growth]) -> Row:
    most = max(growth, key=lambda one: one.ratio, default=None)
    seen = f"{most.ratio:+.1%}, {most.role}" if most else "not measured"
    is_met = most is None or most.ratio <= GROWTH
    return Row("growth of memory, most", f"<= {GROWTH:.0%}", seen, is_met)


def _longest(what: str, costs: Sequence[Cost], goal: float) -> Row:
    seen = _spread([cost.seconds for cost in costs])
    over = sum(cost.seconds > goal for cost in costs)
    seen += f", {over} of {len(costs)} over" if over else f", {len(costs)} times"
    return Row(what, f"<= {goal:.0f} s", seen, not over)


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f} .. {max(seconds):.1f} s" if seconds else "-"


def table(found: Findings, kills: int) -> str:
    """Write everything down: the invariants, each fault, each process, and what was odd."""
    parts = [
        _lines(
            [("what", "goal", "seen", "")]
            + [(r.what, r.goal, r.seen, "met" if r.met else "MISSED") for r in rows(found, kills)]
        ),
        _lines(
            [("fault", "times", "whole again", "job runs again", "work lost")]
            + [_fault_line(found, name) for name in _names(found.ledger.blows)]
        ),
        "each as median .. longest",
    ]
    if found.growth:
        parts.append(
            _lines([("memory of", "warm", "last", "growth"), *map(_growth_line, found.growth)])
        )
    parts.append("\n".join(_oddities(found)))
    return "\n\n".join(parts)


def _names(blows: Iterable[Blow]) -> list[str]:
    return sorted({blow.fault for blow in blows})


def _fault_line(found: Findings, name: str) -> tuple[str, ...]:
    blows = [blow for blow in found.ledger.blows if blow.fault == name]
    whole = [blow.ready_at - blow.at for blow in blows]
    costs = (found.resumptions(), found.losses())
    times = (whole, *([c.seconds for c in those if c.blow.fault == name] for those in costs))
    return (name, str(len(blows)), *map(_spread, times))


def _growth_line(growth: Growth) -> tuple[str, ...]:
    sizes = [
        f"{size / MB:.1f} MB" + (f", {data / MB:.1f} of it data" if data else "")
        for size, data in ((growth.warm, growth.warm_data), (growth.last, growth.last_data))
    ]
    return (growth.role, *sizes, f"{growth.ratio:+.1%}")


def _oddities(found: Findings) -> list[str]:
    ledger = found.ledger
    first = [call for call in ledger.calls if call.first_error]
    lines = [
        f"{found.minutes:.1f} minutes; drained in {found.drain_s:.0f} s; "
        f"{len(ledger.entries)} jobs, {len(found.resumed())} of them resumed; "
        f"{len(ledger.calls)} interactive calls, {len(first)} of them sent twice"
    ]
    lines += [f"{what}: {count}" for what, count in sorted(ledger.notes.items())]
    lines += [f"LOST {_about(found, entry)}" for entry in found.lost()]
    lines += [f"TWO ENDS {_about(found, entry)}" for entry in found.doubled()]
    lines += [f"OTHER BYTES {_about(found, entry)}" for entry in found.wrong()]
    lines += [f"NO WEBHOOK {job_id}: {why}" for job_id, why in found.undelivered.items()]
    lines += [f"CALL FAILED {_call(found, c)}" for c in found.failed_calls(gateway_down=False)]
    lines += [f"NOT RECOVERED {b.fault} ({b.detail}): {b.missed}" for b in ledger.blows if b.missed]
    lines += [
        f"RAN AGAIN LATE {_cost(found, c)}" for c in found.resumptions() if c.seconds > RESUME_S
    ]
    lines += [f"WORK LOST {_cost(found, c)}" for c in found.losses() if c.seconds > LOST_WORK_S]
    lines += [f"BROKE {crash}" for crash in ledger.crashes]
    return lines + found.remarks


def _about(found: Findings, entry: Entry) -> str:
    seen = " ".join(f"{at - entry.asked_at:.1f}:{status}" for at, status in entry.seen)
    struck = [
        f"{blow.at - entry.asked_at:.1f}:{blow.fault}"
        for blow in found.ledger.blows
        if blow.touches(entry.asked_at, entry.final_at)
    ]
    return (
        f"{entry.id} ({entry.kind}, wish '{entry.wish}', error '{entry.error}', "
        f"digest {entry.digest[:12]}): now '{found.statuses[entry.id]}'; seen {seen}; "
        f"ends {found.stories[entry.id].ends}; faults {', '.join(struck)}"
    )


def _cost(found: Findings, cost: Cost) -> str:
    kind = next(entry.kind for entry in found.ledger.entries if entry.id == cost.job_id)
    before = [
        f"{blow.fault} {cost.blow.at - blow.at:.1f} s before"
        for blow in found.ledger.blows
        if 0 < cost.blow.at - blow.at < JUST_BEFORE_S
    ]
    fault = f"{cost.blow.fault} ({cost.blow.detail})"
    return f"{cost.seconds:.1f} s: {fault}, {cost.job_id} ({kind}); {', '.join(before)}"


def _call(found: Findings, call: Call) -> str:
    near = [
        f"{blow.fault} {call.began - blow.at:+.1f} s ago"
        for blow in found.ledger.blows
        if blow.touches(call.began - 1, call.ended)
    ]
    took = call.ended - call.began
    return f"{call.technique} after {took:.1f} s: {call.first_error}; {call.last_error}; {near}"


def _lines(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
