"""Which trace a job belongs to, as W3C Trace Context writes it: beside the Job, in RQ's `meta` or Faktory's `custom`.

It is no part of the Job, so the same Job is the same one in whatever trace. Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_STATE = 512
"""Characters of a tracestate that are passed on; all must accept so many."""


def current() -> dict[str, str]:
    """The application's own span, if it uses OpenTelemetry and is within one; nothing is imported for it."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return {}
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    found = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    state = context.trace_state.to_header()
    return found | ({"tracestate": state} if 0 < len(state) <= _STATE else {})


def carried(values: Mapping[Any, Any] | None) -> dict[str, str]:
    """What a job carries, if it can be read; what can't is as if it weren't there."""
    parent, state = (values.get("traceparent"), values.get("tracestate")) if values else (None, None)
    if not isinstance(parent, str) or len(parent) > 200 or not _PARENT.fullmatch(parent):
        return {}
    found = {"traceparent": parent}
    return found | ({"tracestate": state} if isinstance(state, str) and 0 < len(state) <= _STATE else {})
