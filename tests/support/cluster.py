"""Namespaces of our own on a real cluster, with the Role of k8s/base/rbac.yaml in them."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.executors.kubernetes.api import Api, ApiError, path_of
from support import ledger

ROOT = Path(__file__).parent.parent.parent
RESTART = os.environ.get("LONGSHORE_TEST_RESTART", "")
"""A command that restarts a part of the cluster, `{}` standing for its name."""
restarts = pytest.mark.skipif(
    not RESTART, reason="LONGSHORE_TEST_RESTART isn't set: nothing here restarts a part of the cluster"
)
RIGHTS = "/apis/rbac.authorization.k8s.io/v1/namespaces"


def role_and_binding(namespace: str, user: str | None, name: str | None = None) -> list[dict[str, Any]]:
    """The Role and RoleBinding of k8s/base for another namespace; bound to `user`, and called `name`, if given."""
    found = []
    for item in yaml.safe_load_all((ROOT / "k8s" / "base" / "rbac.yaml").read_text()):
        if item["kind"] in ("Role", "RoleBinding"):
            item["metadata"]["namespace"] = namespace
            if user and item["kind"] == "RoleBinding":
                item["subjects"] = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]
            if name:
                item["metadata"]["name"] = name
                if "roleRef" in item:
                    item["roleRef"]["name"] = name
            found.append(item)
    return found


async def make_namespace(admin: Api, user: str | None, *, enforce: str = "restricted") -> str:
    """A new namespace that enforces a Pod Security level, with our Role bound to `user`."""
    name = f"longshore-test-{secrets.token_hex(4)}"
    if user is not None:
        ledger.namespaces.add(name)
    await fill_namespace(admin, name, user, enforce=enforce)
    return name


async def fill_namespace(admin: Api, name: str, user: str | None, *, enforce: str = "restricted") -> None:
    """The same under a given name."""
    meta = {"name": name, "labels": {"pod-security.kubernetes.io/enforce": enforce}}
    await admin.request("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    for item in role_and_binding(name, user):
        kind = "roles" if item["kind"] == "Role" else "rolebindings"
        await admin.request("POST", f"{RIGHTS}/{name}/{kind}", body=item)


async def drop_namespace(admin: Api, name: str) -> None:
    """Delete a namespace with all that is in it, if it is still there; it goes in the background."""
    pods = [path_of(name, "pods", pod["metadata"]["name"]) for pod in await pods_in(admin, name)]
    for path in (*pods, f"/api/v1/namespaces/{name}"):
        try:
            await admin.request("DELETE", path, body={"gracePeriodSeconds": 0} if path in pods else None)
        except ApiError as error:
            if error.status not in (404, 409):
                raise


async def pods_in(admin: Api, namespace: str) -> list[dict[str, Any]]:
    """All pods of a namespace."""
    items: list[dict[str, Any]] = (await admin.request("GET", path_of(namespace, "pods")))["items"]
    return items


def user_of(kubeconfig: Path) -> str | None:
    """The user name to bind the Role to: the lab's `consumer`; None for an admin's own kubeconfig."""
    return "consumer" if str(kubeconfig) == os.environ.get("LAB_CONSUMER_KUBECONFIG") else None


async def restart(part: str) -> None:
    """Restart a part of the cluster: kube-apiserver, etcd, kubelet, containerd."""
    process = await asyncio.create_subprocess_exec(
        *shlex.split(RESTART.format(part)), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 120) == 0
