"""Failed jobs and bugs of ours as events in Sentry; with sentry-sdk, which is in the extra `sentry`.

Imported only when a DSN is set. The SDK sends from a thread of its own and drops what it can't send: nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import structlog

from consumer.errors import SetupError
from consumer.logs.mask import Mask, masked_here
from consumer.model import Settlement
from consumer.opslevel import LEGACY, is_legacy
from consumer.settings_sentry import Sentry as Section
from consumer.telemetry import release
from enqueue.job import JOB_NAME, Job

log = structlog.get_logger()

_KEYS = 1000
_TEXT = 2000


class Limit:
    """At most so many events of a kind in a minute; the next one that goes out tells how many didn't."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._seen: dict[Hashable, tuple[float, int, int]] = {}  # the minute's begin, sent in it, held back since

    def admit(self, kind: Hashable) -> int | None:
        """How many were held back before this one; None: it is held back itself."""
        now = self._clock()
        begin, sent, held = self._seen.pop(kind, (now, 0, 0))
        if now - begin >= 60:
            begin, sent = now, 0
        if len(self._seen) >= _KEYS:
            del self._seen[next(iter(self._seen))]
        if sent >= self._most:
            self._seen[kind] = begin, sent, held + 1
            return None
        self._seen[kind] = begin, sent + 1, 0
        return held


class Sentry:
    """Sends events. `secrets`: our own. `transport`: for tests. Raises SetupError for a DSN that can't be read."""

    def __init__(
        self, dsn: str, settings: Section, name: str, secrets: Collection[str] = (), transport: Any = None
    ) -> None:
        try:
            import sentry_sdk
            from sentry_sdk.utils import BadDsn, event_from_exception
        except ImportError:
            raise SetupError("Sentry needs sentry-sdk: pip install 'longshore[sentry]'") from None
        try:
            self._client = sentry_sdk.Client(
                dsn=dsn,
                environment=settings.environment,
                release=f"longshore@{release()}",
                server_name=name,
                default_integrations=False,
                include_local_variables=False,  # they may hold secrets
                max_request_body_size="never",
                max_breadcrumbs=0,
                auto_session_tracking=False,
                before_send=lambda event, hint: self._masked(event),
                transport=transport,
            )
        except BadDsn as error:
            raise SetupError(f"sentry.dsn: can't be read: {type(error).__name__}") from None
        self._event_of = event_from_exception
        self._mask = Mask(secrets)
        self._limit = Limit(settings.per_minute)

    def failed(self, settlement: Settlement, tail: Sequence[str]) -> None:
        """A job has failed; of what was masked already. Never raises."""
        claim, outcome = settlement.claim, settlement.outcome
        kind, reason = getattr(claim.job, "type", None) or _kind(claim.job), outcome.reason or outcome.status.value
        image = claim.job.image if claim.job is not None else None
        tags = {
            "queue": claim.queue,
            "type": kind,
            "executor": settlement.record.where.executor,
            "reason": reason,
            "attempt": str(claim.attempt),
            "verdict": settlement.verdict.value,
            "image": image,
        }
        self._send(
            ("job", kind, reason),
            {
                "level": "error",
                "logger": "longshore.jobs",
                "logentry": {"message": f"{kind}: {reason}: {outcome.message or ''}"[:_TEXT]},
                "tags": {name: value for name, value in tags.items() if value},
                "fingerprint": ["longshore-job", kind, reason],
                "contexts": {
                    "job": {"id": claim.id, "exit_code": outcome.exit_code, "hint": outcome.hint},
                    "where": settlement.record.where.model_dump(exclude_none=True),
                    "log": {"tail": "\n".join(tail)},
                },
            },
        )

    def bug(self, what: str, error: BaseException) -> None:
        """An error of ours that was told in our log as `what`. Never raises."""
        try:
            event, _ = self._event_of(error, client_options=self._client.options)
        except Exception:
            return
        told = {**event, "level": "error", "logger": "longshore", "tags": {"event": what}}
        self._send(("bug", what, type(error).__name__), told)

    def close(self) -> None:
        """Send what is left, for two seconds at most. Blocks."""
        self._client.close(timeout=2.0)

    def _send(self, kind: Hashable, event: dict[str, Any]) -> None:
        try:
            held = self._limit.admit(kind)
            if held is None:
                return
            if held:
                event["tags"]["suppressed"] = str(held)
            self._client.capture_event(self._masked(event))  # before the SDK cuts long texts, where a secret may lie
        except Exception as error:  # whatever it is: no job fails for it
            log.warning("sentry_failed", error=type(error).__name__)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return masked_here(self._mask.mask_text(value))
        if isinstance(value, dict):
            return {name: self._masked(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._masked(inner) for inner in value]
        return value


def _kind(job: Job | None) -> str:
    return LEGACY if is_legacy(job) else JOB_NAME
