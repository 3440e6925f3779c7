"""A worker's process is as large after a job as before it."""

from __future__ import annotations

import platform

import psutil
import pytest
import torch

from services.worker.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_what_was_freed_below_something_alive_is_given_back() -> None:
    process = psutil.Process()
    begun = process.memory_info().rss
    pieces = [torch.zeros(1000) for _ in range(25_000)]
    used = process.memory_info().rss - begun
    assert used > 30e6
    del pieces[:-1]
    give_back()
    assert process.memory_info().rss - begun < 0.5 * used
