"""Which pictures of a request go into which slot of a technique."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from lantern.call import check_bytes
from lantern.errors import InvalidParameter, MissingInput
from lantern.registry import Technique
from services.files import FILE_ID
from services.gateway.context import current
from services.gateway.guard import owner

DATA_URL = re.compile(r"data:image/(?:jpeg|png|webp|gif);base64,", re.ASCII)


def raw_slot(technique: Technique) -> str | None:
    """Name the slot that a bare picture fills: the only required one, or the only one."""
    (only,) = technique.inputs if len(technique.inputs) == 1 else (None,)
    return only or technique.only_required


def needs_picture(technique: Technique) -> bool:
    """Tell whether no call goes without a picture."""
    return any(slot.is_required for slot in technique.inputs.values())


def of_body(technique: Technique, body: bytes) -> dict[str, list[bytes]]:
    """Put a bare picture into its slot.

    Raises:
        MissingInput: it could go into several, or into none.
    """
    if not body:
        return {}
    if not technique.inputs:
        raise MissingInput(
            f"{technique.name} takes no picture; send an empty body", code="unknown-input"
        )
    slot = raw_slot(technique)
    if slot is None:
        slots = ", ".join(technique.inputs)
        raise MissingInput(
            f"{technique.name} takes several pictures ({slots}); send multipart/form-data"
        )
    return {slot: [body]}


def of_json(inputs: Mapping[str, Any]) -> dict[str, list[bytes]]:
    """Fetch the pictures of each slot, file ids or data URLs; a list has them in their order.

    Raises:
        InvalidParameter: one is neither, or there is no such file.
        BadImage: they are too large together.
    """
    found: list[bytes] = []
    pictures: dict[str, list[bytes]] = {}
    for slot, value in inputs.items():
        pictures[slot] = []
        for place, one in enumerate(value if isinstance(value, list) else [value]):
            where = f"/inputs/{slot}/{place}" if isinstance(value, list) else f"/inputs/{slot}"
            found.append(_picture(where, one))
            check_bytes(found)  # uploads are quick to name and large to hold
            pictures[slot].append(found[-1])
    return pictures


def _picture(where: str, value: Any) -> bytes:
    if isinstance(value, str) and (match := DATA_URL.match(value)):
        try:
            return base64.b64decode(value[match.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise InvalidParameter("the data URL is not valid base64", pointer=where) from None
    if isinstance(value, str) and FILE_ID.fullmatch(value):
        data = current().stores.files.read(owner(), value)
        if data is None:
            raise InvalidParameter(
                "there is no such file, or it has expired; upload it again", pointer=where
            )
        return data
    raise InvalidParameter("an input is a file id or a data:image/...;base64 URL", pointer=where)
