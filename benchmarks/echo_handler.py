"""A TorchServe handler that gives every body back: what remains is the cost of the way."""

from __future__ import annotations

import logging
from typing import Any


class EchoHandler:
    """Answers with what it was sent."""

    def initialize(self, context: Any) -> None:
        """Load nothing; be as quiet as the real handler."""
        logging.getLogger("ts.service").setLevel(logging.WARNING)

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Give every body back."""
        for index in range(len(rows)):
            context.set_response_content_type(index, "image/jpeg")
        return [bytes(row["body"]) for row in rows]
