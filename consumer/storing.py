"""What any store of logs and outputs may answer instead of taking them."""

from __future__ import annotations


class Away(Exception):
    """The store can't take it now; it may later. The text says why, without secrets."""


class Refused(Exception):
    """The store will never take it. The text says why, without secrets."""
