"""The right to read logs, taken away while jobs run: nothing new is started until it is back, or its log would be lost.

A start that works says nothing of it, so it is asked for by itself.
"""

from __future__ import annotations

import asyncio

from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.rights import NOBODY, sentence_of
from consumer.tasks import end

PROBE_FIRST, PROBE_CAP = 2.0, 30.0
"""Seconds between two looks whether the right is back, doubled as long as it isn't."""


class LogRight:
    """`trouble`: why no log can be read now, in words that name what is missing; None if logs can be read."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._looking: asyncio.Task[None] | None = None

    def refused(self, api: Api, namespace: str, error: ApiError) -> str:
        """A log may not be read; why."""
        self.trouble = sentence_of(error, namespace)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(api, namespace), name="right to read logs")
        return self.trouble

    async def _look(self, api: Api, namespace: str) -> None:
        pause = PROBE_FIRST
        while self.trouble is not None:
            await asyncio.sleep(pause)
            pause = min(PROBE_CAP, pause * 2)
            try:
                await api.request("GET", path_of(namespace, "pods", NOBODY, "log"), patience=0, read=answers.nothing)
            except ApiError as error:  # usually: there is no such pod
                if error.forbidden or error.passing or error.status == 401:
                    continue
            self.trouble = None

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            await end(self._looking)
