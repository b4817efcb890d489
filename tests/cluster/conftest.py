"""A namespace of its own on a real cluster, with the Role of k8s/base/rbac.yaml bound, for each test module.

`KUBECONFIG` must be allowed to make namespaces and Roles. `LAB_CONSUMER_KUBECONFIG`, where there is one, is that of a
user without any rights of its own: the tests then run with the Role alone; elsewhere they run with `KUBECONFIG`.
`LONGSHORE_TEST_IMAGE` names the image with a POSIX shell (busybox).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api
from consumer.settings import Kubernetes
from support.audit_log import AuditLog
from support.cluster import RIGHTS, drop_namespace, make_namespace, role_and_binding, user_of


@pytest.fixture(scope="session")
def admin_kubeconfig() -> Path:
    """The kubeconfig of whoever set the cluster up; tests are skipped without one."""
    named = os.environ.get("KUBECONFIG")
    if not named:
        pytest.skip("KUBECONFIG isn't set: no cluster")
    return Path(named)


@pytest.fixture(scope="session")
def consumer_kubeconfig(admin_kubeconfig: Path) -> Path:
    """The kubeconfig that the consumer under test uses."""
    return Path(os.environ.get("LAB_CONSUMER_KUBECONFIG") or admin_kubeconfig)


@pytest.fixture(scope="session")
def image() -> str:
    """An image with a POSIX shell that the cluster has or can pull."""
    return os.environ.get("LONGSHORE_TEST_IMAGE", "busybox")


@pytest.fixture
async def admin(admin_kubeconfig: Path) -> AsyncIterator[Api]:
    """A client with all rights."""
    api = Api(await Access.load(Kubernetes(kubeconfig=admin_kubeconfig)), rate=1000, patience=20)
    yield api
    await api.close()


@pytest.fixture
async def namespace(admin: Api, consumer_kubeconfig: Path) -> AsyncIterator[str]:
    """A fresh namespace, `restricted`, with the Role bound to the consumer's user; deleted afterwards."""
    name = await make_namespace(admin, user_of(consumer_kubeconfig))
    yield name
    await drop_namespace(admin, name)


@pytest.fixture
def kubernetes_settings(namespace: str, consumer_kubeconfig: Path, image: str) -> Kubernetes:
    """Settings of an executor for `namespace`."""
    return Kubernetes(
        namespace=namespace, kubeconfig=consumer_kubeconfig, image=image, requests={"cpu": "10m", "memory": "16Mi"}
    )


@pytest.fixture
async def simulated(admin: Api, consumer_kubeconfig: Path) -> AsyncIterator[str]:
    """The namespace whose pods run on simulated nodes (KWOK), with our Role bound for the time of the test.

    The Role has a name of its own: another test, or a benchmark, may be under way there.
    """
    name = "kwok"
    if name not in [item["metadata"]["name"] for item in (await admin.request("GET", "/api/v1/namespaces"))["items"]]:
        pytest.skip("the cluster has no namespace 'kwok' with simulated nodes")
    own, made = f"longshore-test-{secrets.token_hex(4)}", []
    try:
        for item in role_and_binding(name, user_of(consumer_kubeconfig), own):
            kind = "roles" if item["kind"] == "Role" else "rolebindings"
            await admin.request("POST", f"{RIGHTS}/{name}/{kind}", body=item)
            made.append(f"{RIGHTS}/{name}/{kind}/{own}")
        yield name
    finally:
        for path in made:
            await admin.request("DELETE", path)


Audit = Callable[[str], list[tuple[str, str, str]]]


class Request(NamedTuple):
    """One request of the audit log; `at`: when it was received, seconds since the epoch by the server's clock."""

    at: float
    verb: str
    what: str
    name: str


@pytest.fixture
def requests() -> Callable[[str], list[Request]]:
    """The consumer's requests since now by the audit log, as far as it is written: a function of a namespace."""
    path = os.environ.get("LAB_AUDIT_LOG")
    if not path or not Path(path).is_file():
        pytest.skip("LAB_AUDIT_LOG isn't set: no audit log")
    log, lines = AuditLog(Path(path)), list[bytes]()

    def requests(namespace: str) -> list[Request]:
        lines.extend(log.read())
        about = [json.loads(line) for line in lines if namespace.encode() in line]
        rows = [line for line in about if line.get("stage") in ("ResponseComplete", "ResponseStarted")]
        seen = {line["auditID"]: line for line in rows if (line.get("objectRef") or {}).get("namespace") == namespace}
        return [
            Request(
                datetime.fromisoformat(line["requestReceivedTimestamp"]).timestamp(),
                line["verb"],
                "/".join(filter(None, (line["objectRef"]["resource"], line["objectRef"].get("subresource")))),
                line["objectRef"].get("name", ""),
            )
            for line in seen.values()
        ]

    return requests


@pytest.fixture
def audit(requests: Callable[[str], list[Request]]) -> Audit:
    """The same as [(verb, resource, name)]."""
    return lambda namespace: [request[1:] for request in requests(namespace)]


@pytest.fixture
def audited(audit: Audit, namespace: str) -> Callable[[], list[tuple[str, str, str]]]:
    """As `audit`, for `namespace`."""
    return lambda: audit(namespace)
