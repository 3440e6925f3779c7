"""Break a stack again and again, and print what it made of that: `python -m tests.chaos`."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Plan, run
from tests.chaos.faults import FAULTS
from tests.chaos.verdict import rows, table


def main() -> int:
    """Run a campaign; return 1 where a job was lost, ended twice or came out wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill")
    parser.add_argument("--seed", type=int, default=1, help="which faults, in which order")
    parser.add_argument("--only", choices=[f.name for f in FAULTS if f.kills], default="")
    parser.add_argument("--port", type=int, default=0, help="port of the gateway; any if 0")
    parser.add_argument("--warm-up", type=float, default=90.0, help="seconds before and after")
    parser.add_argument("--folder", type=Path, help="where to run; kept, for a look at the logs")
    parser.add_argument("--lease", type=float, default=Plan.lease_s, help="LANTERN_LEASE_S")
    chosen = parser.parse_args()
    plan = Plan(
        chosen.kills, chosen.seed, chosen.port, chosen.lease, warm_up_s=chosen.warm_up,
        rest_s=chosen.warm_up, only=chosen.only, say=functools.partial(print, flush=True),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lantern-chaos-", ignore_cleanup_errors=True) as made:
        folder = chosen.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        found = run(folder, plan)
    print("\n" + table(found, chosen.kills))
    return int(any(row.grave and not row.met for row in rows(found, chosen.kills)))


if __name__ == "__main__":
    sys.exit(main())
