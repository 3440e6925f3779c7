"""Nothing is lost and nothing ends twice, whatever dies: each fault once, under load.

`make chaos` is the long form: hundreds of faults, and the times and memory besides.
"""

from __future__ import annotations

import pytest

from tests.chaos.campaign import Plan, run
from tests.chaos.verdict import LOST_WORK_S, RESUME_S, Findings, table

pytestmark = pytest.mark.e2e

LEASE_S = 4.0
# Other tests may have the machine at the same time; the long form, which has it alone, allows half.
SHARED = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What a campaign of one blow of each kind has shown."""
    found = run(tmp_path_factory.mktemp("chaos"), Plan(lease_s=LEASE_S))
    print("\n" + table(found, 0))
    return found


class TestJobs:
    def test_none_is_lost(self, found: Findings) -> None:
        assert found.ledger.entries
        assert found.lost() == []

    def test_none_ends_twice(self, found: Findings) -> None:
        assert found.doubled() == []

    def test_those_that_were_hit_end_in_the_same_bytes(self, found: Findings) -> None:
        assert found.resumed()
        assert found.wrong() == []

    def test_those_that_were_hit_run_again_soon(self, found: Findings) -> None:
        assert found.resumptions()
        assert [cost for cost in found.resumptions() if cost.seconds > SHARED * RESUME_S] == []

    def test_those_that_were_hit_lose_little_work(self, found: Findings) -> None:
        assert found.losses()
        assert [cost for cost in found.losses() if cost.seconds > SHARED * LOST_WORK_S] == []

    def test_their_webhooks_hear_of_it(self, found: Findings) -> None:
        assert any(entry.has_webhook for entry in found.ledger.entries)
        assert found.undelivered == {}

    def test_their_events_come_in_order_and_once(self, found: Findings) -> None:
        assert sum(entry.unordered_events for entry in found.ledger.entries) == 0


class TestCalls:
    def test_one_retry_is_enough_while_the_gateway_is_there(self, found: Findings) -> None:
        assert found.ledger.calls
        assert found.failed_calls(gateway_down=False) == []

    def test_a_full_store_refuses_new_work_and_gives_out_what_it_has(self, found: Findings) -> None:
        assert found.ledger.notes["full store: new work got 507"] == 1
        assert found.ledger.notes["full store: an old result was read"] == 1


class TestTheStack:
    def test_it_gets_over_every_fault(self, found: Findings) -> None:
        assert len(found.ledger.blows) > 10
        assert [(blow.fault, blow.missed) for blow in found.ledger.blows if blow.missed] == []

    def test_nothing_broke_in_the_test_itself(self, found: Findings) -> None:
        assert found.ledger.crashes == []
