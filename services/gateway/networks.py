"""The networks that who asks may name: the built-in ones and their own."""

from __future__ import annotations

from lantern.networks import BROUGHT_ID, Entry, unknown
from lantern.zoo import Record
from services.gateway.context import current
from services.gateway.guard import owner


def find_network(name: str) -> Record:
    """Find a network that the caller may name: a built-in one or one of theirs.

    Raises:
        UnknownName: there is none.
    """
    if BROUGHT_ID.fullmatch(name):
        entry = current().networks.entry(name)
        if entry is None or entry.owner != owner():
            raise unknown()
    return current().networks.record(name)


def own_networks() -> list[Entry]:
    """Return the networks the caller has brought, the oldest first."""
    return list(current().networks.every(owner()))
