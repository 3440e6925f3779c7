"""What the readers of archives share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lantern.errors import LanternError


class BadArchive(LanternError):
    """The bytes are not an archive that can be read."""

    code = "bad-archive"


class ArchiveTooLarge(LanternError):
    """The archive has too many members, or too much comes out of it."""

    code = "archive-too-large"


class Damaged(ValueError):
    """One file of an archive cannot be read; the others may well be."""


@dataclass(frozen=True)
class Bounds:
    """How many members an archive may have, how many bytes each of them, and all together."""

    members: int
    member_bytes: int
    all_bytes: int

    def check_members(self, count: int) -> None:
        """Check how many members there are.

        Raises:
            ArchiveTooLarge: they are too many.
        """
        if count > self.members:
            raise ArchiveTooLarge(
                f"the archive has more than {self.members} members; send it in several parts"
            )

    def check_bytes(self, count: int) -> None:
        """Check how many bytes come out of the archive.

        Raises:
            ArchiveTooLarge: they are too many.
        """
        if count > self.all_bytes:
            raise ArchiveTooLarge(
                f"more than {self.all_bytes} bytes come out of the archive; "
                "send it in several parts"
            )


@dataclass(frozen=True)
class Stored:
    """A file in an archive, not read yet; `trouble` says why it cannot be, if so.

    `read` gives exactly `size` bytes or raises Damaged.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    trouble: str = ""


@dataclass(frozen=True)
class Member:
    """A file out of an archive, by its name in a collection."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Skipped:
    """What is not taken, and why not."""

    name: str
    reason: str
