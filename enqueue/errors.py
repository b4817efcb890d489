"""Errors of the producer's side; the consumer's derive from the same root.

LongshoreError
+-- InvalidJob           the Job can't be accepted: the message names the field and the way out
+-- UsageError           a wrong option, URL or file: the message names it
+-- QueueUnavailable     the queue's server can't be reached or refuses us
+-- UnknownJob           no such job on this queue (never enqueued, or its record has expired)
+-- RecordsUnavailable   asked for a Record where none is kept (Faktory without a records URL)
+-- ProtocolError        the server answered what its protocol doesn't know
"""

from __future__ import annotations


class LongshoreError(Exception):
    """The root of all errors that longshore raises on purpose."""


class InvalidJob(LongshoreError):
    """The Job can't be accepted."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class UsageError(LongshoreError):
    """A wrong option, URL or file."""


class QueueUnavailable(LongshoreError):
    """The queue's server can't be reached or refuses us."""


class UnknownJob(LongshoreError):
    """No such job on this queue."""


class RecordsUnavailable(LongshoreError):
    """No Record is kept here: Faktory keeps none, and no records URL was given."""


class ProtocolError(LongshoreError):
    """The server answered what its protocol doesn't know."""
