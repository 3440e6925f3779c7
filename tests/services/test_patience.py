"""How a result waits for room: it is tried again soon, unless a try takes long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from services.blobs import StorageFull
from services.worker import patience
from services.worker.patience import Room
from services.worker.pulse import Pulse


@pytest.mark.parametrize(("try_s", "longest_s"), [(0.0, 1.0), (0.3, 1.5), (2.0, 5.0)])
def test_the_pauses_between_tries(
    monkeypatch: pytest.MonkeyPatch, try_s: float, longest_s: float
) -> None:
    now, pauses = [100.0], list[float]()
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Room, "_pause", lambda _, seconds: pauses.append(seconds))

    def refused_ten_times() -> str:
        now[0] += try_s
        if len(pauses) < 10:
            raise StorageFull
        return "stored"

    assert Room(cast(Pulse, None)).find(refused_ten_times) == "stored"
    assert max(pauses) == pytest.approx(longest_s)
