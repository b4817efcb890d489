"""Settings of the queue RQ."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field

from consumer.section import Section


class Rq(Section):
    """What RQ's producers may have done after a job."""

    callback_queue: str | None = Field(
        None,
        min_length=1,
        description="Queue of stock RQ workers that call jobs' callbacks (on_success, on_failure, on_stopped). They "
        "need this package beside the application. Without it jobs with callbacks are refused.",
    )
    webhooks: str = Field(
        "*",
        description="Hosts to which jobs' webhooks may be sent, with commas: 'hooks.example.org,*.internal'. "
        "'*': to all; '': none is sent.",
    )

    def may_call(self, host: str) -> bool:
        """A webhook may be sent to this host."""
        patterns = [pattern.strip().lower() for pattern in self.webhooks.split(",")]
        return any(fnmatchcase(host.lower(), pattern) for pattern in patterns if pattern)
