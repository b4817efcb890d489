"""What a store of logs and outputs is asked, and what it may answer instead."""

from __future__ import annotations

from typing import Protocol


class Away(Exception):
    """The store can't take it now; it may later. The text says why, without secrets."""


class Broken(Away):
    """The same, until somebody mends it: what is to go on for a while may wait for that, what is whole doesn't."""


class Refused(Exception):
    """The store will never take it. The text says why, without secrets."""


class Target(Protocol):
    """The place of one log or file in a store. Raises Away, Refused."""

    url: str | None
    """Where it can be found."""
    part: int
    """Bytes that it takes at a time: exactly so many until the last ones."""
    resumes: bool
    """It can tell what a former consumer has stored."""

    async def stored(self) -> int:
        """Bytes that a former consumer has stored of it."""

    async def put(self, offset: int, data: bytes, *, last: bool) -> None:
        """Store bytes at their offset; `last`: nothing follows. A repeat does no harm."""

    async def close(self, size: int) -> None:
        """It is so long, and ends here."""

    async def abandon(self) -> None:
        """Let go of what is held; it goes on elsewhere, or can't be stored. Never raises."""
