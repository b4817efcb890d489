"""Pods on simulated nodes (KWOK), in the namespace `kwok`, for the time of a benchmark: nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.settings import Kubernetes
from support.cluster import RIGHTS, role_and_binding, user_of

NAMESPACE = "kwok"
PAGE = 250
REMOVAL_SECONDS = 300


def consumer_kubeconfig() -> Path:
    """The one that the consumer under test uses."""
    return Path(os.environ.get("LAB_CONSUMER_KUBECONFIG") or os.environ["KUBECONFIG"])


@contextlib.asynccontextmanager
async def admin() -> AsyncIterator[Api]:
    """A client with all rights."""
    api = Api(await Access.load(Kubernetes(kubeconfig=Path(os.environ["KUBECONFIG"]))), rate=1000, patience=20)
    try:
        yield api
    finally:
        await api.close()


@contextlib.asynccontextmanager
async def simulated(*leases: str) -> AsyncIterator[str]:
    """A mark: pods with it as label `bench` are removed at the end, and so is the Role, bound under this name.

    `leases`: names of Leases that the Role allows beside the usual one.
    """
    mark, made = f"bench-{os.getpid()}-{secrets.token_hex(4)}", []
    async with admin() as api:
        try:
            for item in role_and_binding(NAMESPACE, user_of(consumer_kubeconfig()), mark):
                kind = "roles" if item["kind"] == "Role" else "rolebindings"
                for rule in item.get("rules", ()):
                    if "resourceNames" in rule:
                        rule["resourceNames"] += leases
                made.append(f"{RIGHTS}/{NAMESPACE}/{kind}/{mark}")
                await api.request("POST", f"{RIGHTS}/{NAMESPACE}/{kind}", body=item)
            yield mark
        finally:
            try:
                await remove_pods(api, mark)
            finally:
                for path in made:
                    with contextlib.suppress(ApiError):
                        await api.request("DELETE", path)


async def pods_with(api: Api, mark: str) -> list[str]:
    """Their uids."""
    query, uids = {"labelSelector": f"bench={mark}", "limit": str(PAGE)}, []
    while True:
        page = await api.request("GET", path_of(NAMESPACE, "pods"), query=query)
        uids += [pod["metadata"]["uid"] for pod in page["items"]]
        if not page["metadata"].get("continue"):
            return uids
        query["continue"] = page["metadata"]["continue"]


async def remove_pods(api: Api, mark: str) -> None:
    """Page by page, until none is left, whatever a busy server says meanwhile."""
    path, query = path_of(NAMESPACE, "pods"), {"labelSelector": f"bench={mark}", "limit": "50"}
    async with asyncio.timeout(REMOVAL_SECONDS):
        left = True
        while left:
            try:
                await api.request("DELETE", path, query=query, body={"gracePeriodSeconds": 0})
                left = bool((await api.request("GET", path, query=query | {"limit": "1"}))["items"])
            except ApiError as error:
                if not error.passing:
                    raise


def consumer_settings(mark: str, concurrency: int, *, stay: bool, run_for: str = "0s") -> dict[str, Any]:
    """A longshore.yaml for them; the pods `stay`, or end after `run_for`."""
    labels = {"bench": mark, **({"lab/stay": "true"} if stay else {})}
    own = {"namespace": NAMESPACE, "kubeconfig": str(consumer_kubeconfig()), "image": "busybox", "labels": labels}
    own |= {"annotations": {"lab/run-for": run_for}, "requests": {"cpu": "10m", "memory": "16Mi"}}
    own |= {"rate": 10_000, "create_rate": 10_000}
    own |= {"log_streams": 0}  # a log of a simulated pod that is followed never begins
    return {"executor": "kubernetes", "concurrency": concurrency, "kubernetes": own, "log_level": "info"}
