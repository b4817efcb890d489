"""The section `audit` of the settings: `longshore audit` by the consumers themselves."""

from __future__ import annotations

from pydantic import Field

from consumer.section import Section


class Audit(Section):
    """One of the consumers that share queues looks whether anything is lost, and tells it as metrics: docs/audit.md."""

    interval: float = Field(
        0, ge=0, description="Seconds between two audits; 0: there are none. 600 is often enough for an alert."
    )
    most: int = Field(
        20_000, ge=1, description="Entries of a list, and keys of a kind, that one audit looks at at most."
    )
