"""Connections to a real API server, with its TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, path_of
from consumer.settings import Kubernetes

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("kind", ["call", "watch"])
def test_wherever_a_call_is_cut_it_leaves_no_connection_open(admin_kubeconfig: Path, kind: str) -> None:
    """The event loop ends right after `close`: a socket that is still open then is told by Python, as an error."""

    async def cut(rounds: int) -> None:
        api = Api(await Access.load(Kubernetes(kubeconfig=admin_kubeconfig)), rate=1000, patience=0)

        async def use() -> None:
            if kind == "call":
                await api.request("GET", path_of("default", "pods"))
            else:
                async with api.stream(path_of("default", "pods"), {"watch": "true"}) as response:
                    await response.content.readany()

        call = asyncio.create_task(use())
        for _ in range(rounds):
            await asyncio.sleep(0)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await api.close()

    for rounds in range(0, 300, 2):
        asyncio.run(cut(rounds))
    gc.collect()
