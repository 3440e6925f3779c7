"""A process is as large after its work as before it."""

from __future__ import annotations

import platform
import subprocess
import sys

import psutil
import pytest
import torch

from services.memory import give_back

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed"
)

# Eight threads take and free values as large as pictures; prints the MB that stay.
THREADS = """
import sys, threading, psutil
from services.memory import keep_little
if sys.argv[1] == "little":
    keep_little()
stayed, together = [], threading.Barrier(8)
def work():
    together.wait()
    for size in range(100_000, 3_000_000, 100_000):
        values = [bytes(size) for _ in range(4)]
        stayed.append(bytearray(2_000))
        del values
    together.wait()
before = psutil.Process().memory_info().rss
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


def test_what_was_freed_below_something_alive_is_given_back() -> None:
    process = psutil.Process()
    begun = process.memory_info().rss
    pieces = [torch.zeros(1000) for _ in range(25_000)]
    used = process.memory_info().rss - begun
    assert used > 30e6
    del pieces[:-1]
    give_back()
    assert process.memory_info().rss - begun < 0.5 * used


def test_many_threads_keep_little_of_what_they_have_freed() -> None:
    much, little = (
        float(subprocess.check_output([sys.executable, "-c", THREADS, word], text=True))
        for word in ("much", "little")
    )
    assert little < 5
    assert little < 0.5 * much
