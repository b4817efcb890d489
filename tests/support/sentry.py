"""A transport that keeps what Sentry's SDK would send."""

from __future__ import annotations

import json
from typing import Any

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

DSN = "https://publickey@sentry.example/1"


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.sent.append(envelope.serialize())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(sent.split(b"\n")[2]) for sent in self.sent]
