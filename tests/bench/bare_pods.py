"""The floor for any executor: create pods, see their ends on one shared watch, delete them. Nothing else.

    python tests/bench/bare_pods.py SPEC        SPEC is JSON: {kubeconfig, namespace, count, concurrency, pod}

Prints one JSON line: seconds from the first create to the last delete, and CPU seconds of this process meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from consumer.executors.kubernetes.access import Access
from consumer.settings import Kubernetes


class Loop:
    """One watch, and as many pods at a time as asked for."""

    def __init__(self, access: Access, session: aiohttp.ClientSession, spec: dict[str, Any]) -> None:
        self.session, self.spec = session, spec
        self.url = f"{access.host}/api/v1/namespaces/{spec['namespace']}/pods"
        self.options: dict[str, Any] = {"headers": {"Authorization": access.token}} if access.token else {}
        if access.tls is not None:
            self.options["ssl"] = access.tls
        self.mark = f"bare-{secrets.token_hex(4)}"
        self.ends: dict[str, asyncio.Future[None]] = {}
        self.left = iter(range(spec["count"]))

    async def call(self, method: str, url: str, **body: Any) -> dict[str, Any]:
        """One request and its answer."""
        async with self.session.request(method, url, **self.options, **body) as response:
            answer: dict[str, Any] = await response.json()
            if response.status >= 300:
                raise RuntimeError(f"{method} {url}: {response.status} {answer}")
            return answer

    async def watch(self, version: str) -> None:
        """Tell each pod's end."""
        query = {"watch": "true", "labelSelector": f"bare={self.mark}", "resourceVersion": version}
        limits = aiohttp.ClientTimeout(total=None)
        async with self.session.get(self.url, params=query, timeout=limits, **self.options) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RuntimeError(f"the watch was cut: measure again: {line!r}")
                    pod = event["object"]
                    end = self.ends.get(pod["metadata"]["name"])
                    if end is not None and pod["status"]["phase"] in ("Succeeded", "Failed") and not end.done():
                        end.set_result(None)
        raise RuntimeError("the watch was cut: measure again")

    async def slot(self) -> None:
        """One pod after the other."""
        for number in self.left:
            name = f"{self.mark}-{number}"
            end = self.ends[name] = asyncio.get_running_loop().create_future()
            pod = json.loads(json.dumps(self.spec["pod"]))
            pod["metadata"] |= {"name": name}
            pod["metadata"]["labels"] = {**pod["metadata"].get("labels", {}), "bare": self.mark}
            await self.call("POST", self.url, json=pod)
            await end
            await self.call("DELETE", f"{self.url}/{name}", json={"gracePeriodSeconds": 0})
            del self.ends[name]

    async def run(self) -> dict[str, float]:
        """All of them."""
        listed = await self.call("GET", self.url, params={"limit": "1"})
        watching = asyncio.create_task(self.watch(listed["metadata"]["resourceVersion"]))
        began, cpu = time.perf_counter(), time.process_time()
        slots = asyncio.gather(*(self.slot() for _ in range(self.spec["concurrency"])))
        await asyncio.wait({slots, watching}, return_when=asyncio.FIRST_COMPLETED)
        took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        if not slots.done():
            await watching
        watching.cancel()
        await slots
        return took


async def main() -> None:
    """Read SPEC, run, print."""
    spec = json.loads(sys.argv[1])
    access = await Access.load(Kubernetes(kubeconfig=Path(spec["kubeconfig"])))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        print(json.dumps(await Loop(access, session, spec).run()))


if __name__ == "__main__":
    asyncio.run(main())
