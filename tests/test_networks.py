"""Networks that threads ask for at the same time."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import nn

from lantern.networks import Networks
from lantern.records import RECORDS
from lantern.zoo import sketch


def test_threads_build_a_sketch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rec, builds = RECORDS["squeezenet1-1"], []

    def build() -> nn.Module:
        builds.append(1)
        time.sleep(0.1)
        return rec.build()

    monkeypatch.setitem(RECORDS, rec.name, dataclasses.replace(rec, build=build))
    sketch.cache_clear()
    networks = Networks()
    with ThreadPoolExecutor(4) as threads:
        costs = list(threads.map(lambda name: networks.sketch(name).costs(), [rec.name] * 4))
    assert len(builds) == 1
    assert costs == [costs[0]] * 4
