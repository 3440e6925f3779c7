"""The networks that who asks may name: the built-in ones and their own."""

from __future__ import annotations

from lantern.networks import BROUGHT_ID, Entry, unknown
from lantern.records import Record, record
from services.gateway.context import current
from services.gateway.guard import owner


def find_network(name: str) -> Record:
    """Find a network that the caller may name: a built-in one or one of theirs.

    Raises:
        UnknownName: there is none.
    """
    if not BROUGHT_ID.fullmatch(name):
        return record(name)
    entry = own_network(name)
    if entry is None:
        raise unknown()
    return current().networks.record_of(entry)


def own_network(name: str) -> Entry | None:
    """Return a network the caller has brought; None where they have brought none of that id."""
    entry = current().networks.entry(name)
    return entry if entry is not None and entry.owner == owner() else None
