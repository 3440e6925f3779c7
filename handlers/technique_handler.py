"""The TorchServe handler of every archive: rows of bytes -> lantern -> bytes, a status per row."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from lantern import registry
from lantern.call import Call, Studio
from lantern.errors import AnswerTooLarge, InvalidParameters, LanternError
from lantern.image import Image

HEAD = "x-lantern-call"
PROBLEM = "application/json"
# TorchServe kills the worker whose answer is larger than `max_response_size`, or than there is room
# for in its heap: it holds some three copies, and answers of both archives at a time. There is room
# for those of 32 MiB, none for those of 39.
MOST_ANSWER = 24 * 1024 * 1024


class TechniqueHandler:
    """Answers each row by itself: a bad picture sets its own status and leaves the others alone."""

    def __init__(self) -> None:
        self.initialized = False

    def initialize(self, context: Any) -> None:
        """Make the studio and run the archive's `warm_up` calls, so that no caller waits."""
        # each call would write lines of metrics for TorchServe to parse, a tenth of an echo's time
        logging.getLogger("ts.service").setLevel(logging.WARNING)
        options = (context.model_yaml_config or {}).get("handler", {})
        threads = int(os.environ.get("LANTERN_TORCH_THREADS") or 0)
        torch.set_num_threads(threads or os.cpu_count() or 1)
        store = Path(os.environ["LANTERN_MODEL_STORE"])
        models = os.environ.get("LANTERN_MODELS")
        self.studio = Studio.open(
            store / "styles", Path(models) if models else None, downloads=False
        )
        blank = Image(torch.zeros(3, 512, 512)).encode("image/jpeg")
        for warm_up in options.get("warm_up", ()):
            slots = registry.find(warm_up["technique"]).inputs.items()
            inputs = {name: blank for name, slot in slots if slot.is_required}
            self._warm_up(Call(inputs=inputs, **warm_up))
        gc.freeze()  # what is there stays, and is looked through for garbage no more
        self.initialized = True

    def _warm_up(self, call: Call) -> None:
        try:
            self.studio.perform(call)
        except LanternError as error:  # a store without styles still serves what it has
            logging.warning("no warm-up of %s: %s", call.technique, error.detail)

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch; TorchServe's entry point."""
        return self.studio.each(
            [functools.partial(self._answer, row, at, context) for at, row in enumerate(rows)]
        )

    def _answer(self, row: dict[str, Any], index: int, context: Any) -> bytes:
        try:
            call = Call.unpack(
                context.get_request_header(index, HEAD), bytes(row.get("body") or b"")
            )
            answer = self.studio.perform(call, most_bytes=MOST_ANSWER)
        except AnswerTooLarge as error:
            return self._refuse(413, problem(error), index, context)
        except LanternError as error:
            return self._refuse(422, problem(error), index, context)
        except Exception:
            logging.exception("a technique failed")
            return self._refuse(
                500, {"code": "internal", "detail": "the technique failed"}, index, context
            )
        context.set_response_content_type(index, answer.media_type)
        context.set_response_header(index, "x-lantern-timings", json.dumps(dict(answer.timings)))
        return answer.body

    def _refuse(self, status: int, body: dict[str, Any], index: int, context: Any) -> bytes:
        context.set_response_status(status, "refused", index)
        context.set_response_content_type(index, PROBLEM)
        return json.dumps(body).encode()


def problem(error: LanternError) -> dict[str, Any]:
    """Put an error into plain data, one entry for each thing that is wrong."""
    parts = error.problems if isinstance(error, InvalidParameters) else (error,)
    return {
        "code": error.code,
        "detail": error.detail,
        "errors": [{"pointer": part.pointer, "detail": part.detail} for part in parts],
    }
