"""Why a pod doesn't start, by its events: asked for once, when its status tells nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from enqueue.times import epoch

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds: an answer that takes longer isn't worth the wait."""
_TOLD = 2
_LONGEST = 400


async def told_by_events(api: Api, namespace: str, uid: str) -> str:
    """The last warnings about the pod with this uid; empty if there are none, or they can't be read."""
    query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": "100"}
    try:
        async with asyncio.timeout(PATIENCE):
            found = await api.request("GET", path_of(namespace, "events"), query=query, patience=0)
    except (ApiError, TimeoutError) as error:
        log.info("the events of a pod that doesn't start can't be read: %s", str(error) or "no answer in time")
        return ""
    return summary(found.get("items") or ())


def summary(events: Iterable[Mapping[str, Any]]) -> str:
    """The newest warning of each of the last reasons, the newest first.

    What the scheduler said is left out: it stands in the pod's status as long as it is true.
    """
    newest: dict[str, tuple[float, str]] = {}
    for event in events:
        reason = str(event.get("reason") or "")
        if event.get("type") != "Warning" or reason == "FailedScheduling":
            continue
        when = _time_of(event)
        if reason not in newest or when >= newest[reason][0]:
            message = " ".join(str(event.get("message") or "").split())
            newest[reason] = (when, f"{reason}: {message}"[:_LONGEST].rstrip(": "))
    last = sorted(newest.values(), key=lambda entry: -entry[0])[:_TOLD]
    return "; ".join(text for _, text in last)


def _time_of(event: Mapping[str, Any]) -> float:
    series = event.get("series") or {}
    told = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return epoch(told or (event.get("metadata") or {}).get("creationTimestamp")) or 0.0
