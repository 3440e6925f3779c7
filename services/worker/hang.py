"""A run that hangs takes its process along, so that its worker goes on with other jobs."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable, Iterator

# For longer than any store or the longest step of a job that is over is waited for.
HANGS_AFTER_S = 300.0
STDERR = 2


@contextlib.contextmanager
def ends_if_it_hangs() -> Iterator[Callable[[], None]]:
    """End this process, and say where it hangs, unless the block is left or told to go on in time.

    What the block is given is to be called for as long as it may go on. The clock is no thread of
    Python's: it runs out also where nothing else runs any more. The pool has another process in
    place of this one at once, and the caretaker gives up the job.
    """

    def go_on() -> None:
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True, file=STDERR)

    go_on()
    try:
        yield go_on
    finally:
        faulthandler.cancel_dump_traceback_later()
