"""The settings of error reports."""

from __future__ import annotations

from pydantic import Field, SecretStr

from consumer.section import Section


class Sentry(Section):
    """Failed jobs and the consumer's own bugs as events in Sentry. Needs the extra `sentry`."""

    dsn: SecretStr | None = Field(None, description="Where events go; SENTRY_DSN if not given. Off without either.")
    environment: str | None = Field(None, description="The environment that events name, such as production.")
    per_minute: int = Field(
        5, ge=1, le=1000, description="Events of one job type and reason in a minute; a later one counts the rest."
    )
