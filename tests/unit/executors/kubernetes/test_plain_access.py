from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.errors import SetupError
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.plain_access import Plain, in_file, in_pod
from consumer.settings import Kubernetes

PEM = {name: f"-----{name}-----\n" for name in ("ca", "cert", "key")}
DATA = {name: base64.b64encode(pem.encode()).decode() for name, pem in PEM.items()}
CERTIFICATES = {"client-certificate-data": DATA["cert"], "client-key-data": DATA["key"]}
FILES = {"client-certificate": "cert", "client-key": "key"}
PLAIN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"server": "https://k:6443/"}, {"token": "t0"}),
    ({"server": "https://k:6443", "certificate-authority-data": DATA["ca"]}, CERTIFICATES),
    ({"server": "https://k:6443", "certificate-authority": "ca"}, FILES),
    ({"server": "https://k", "insecure-skip-tls-verify": True, "tls-server-name": "n"}, {"tokenFile": "token"}),
    ({"server": "https://k", "proxy-url": "http://p:1"}, {"token": "t0"}),
    ({"server": "http://k:1", "certificate-authority-data": DATA["ca"]}, {"token": "t0"} | CERTIFICATES),
]


def kubeconfig(directory: Path, cluster: dict[str, Any], user: dict[str, Any], **context: Any) -> str:
    for name, pem in PEM.items():
        (directory / name).write_text(pem)
    (directory / "token").write_text("from-a-file")
    entry = {"name": "c", "context": {"cluster": "k", "user": "u", **context}}
    other = {"name": "other", "context": {"cluster": "k", "user": "u", "namespace": "elsewhere"}}
    whole = {"clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}]}
    whole |= {"contexts": [entry, other], "current-context": "c"}
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(whole))
    return str(path)


def pem_in(file: str | None) -> str | None:
    return Path(file).read_text() if file else None


async def as_the_package_reads_it(path: str) -> Plain:
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config.kube_config import load_kube_config

    found: Any = type.__call__(Configuration)
    loader = await load_kube_config(path, client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
    pem = map(pem_in, (found.ssl_ca_cert, found.cert_file, found.key_file))
    namespace = loader.current_context["context"].get("namespace") or "default"
    return Plain(
        found.host, namespace, found.api_key.get("BearerToken"), *pem,
        insecure=not found.verify_ssl, server_name=found.tls_server_name, proxy=found.proxy,
    )  # fmt: skip


@pytest.mark.parametrize(("cluster", "user"), PLAIN)
async def test_a_plain_kubeconfig_is_read_as_the_package_reads_it(
    cluster: dict[str, Any], user: dict[str, Any], tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path, cluster, user, namespace="jobs")
    assert in_file(path, None) == await as_the_package_reads_it(path)


@pytest.mark.parametrize("beside", [{}, {"username": "left to the package"}], ids=["plain", "by the package"])
async def test_of_a_tokens_text_and_its_file_the_file_counts_as_for_kubectl(
    beside: dict[str, str], tmp_path: Path
) -> None:
    async def token(**user: str) -> str | None:
        path = Path(kubeconfig(tmp_path, {"server": "https://k"}, user | beside))
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "line").write_text("from-a-file\n")
        return (await Access.load(Kubernetes(kubeconfig=path))).token

    assert await token(token="old", tokenFile="token") == "Bearer from-a-file"
    assert await token(token="old", tokenFile=str(tmp_path / "token")) == "Bearer from-a-file"
    assert await token(tokenFile="line") == "Bearer from-a-file"
    assert await token(token="old", tokenFile="nowhere") == "Bearer old"
    assert await token(token="old", tokenFile="empty") == "Bearer old"
    assert await token(token="old") == "Bearer old"
    with pytest.raises(SetupError, match="nowhere"):
        await token(tokenFile="nowhere")


def test_a_context_may_be_named(tmp_path: Path) -> None:
    found = in_file(kubeconfig(tmp_path, *PLAIN[0]), "other")
    assert found is not None
    assert found.namespace == "elsewhere"


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"server": "https://k"}, {"exec": {"command": "aws"}}),
        ({"server": "https://k"}, {"auth-provider": {"name": "oidc"}}),
        ({"server": "https://k"}, {"client-certificate-data": DATA["cert"]}),
        ({"server": "https://k", "certificate-authority": "nowhere"}, {"token": "t0"}),
        ({"server": "https://k", "insecure-skip-tls-verify": "yes"}, {"token": "t0"}),
        ({"server": "https://k", "something-new": 1}, {"token": "t0"}),
        ({}, {"token": "t0"}),
    ],
)
def test_all_else_is_left_to_the_package(cluster: dict[str, Any], user: dict[str, Any], tmp_path: Path) -> None:
    assert in_file(kubeconfig(tmp_path, cluster, user), None) is None


def test_a_file_that_is_no_kubeconfig_is_left_to_the_package(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    for text in ("", "[]", "{", "current-context: c\n", "contexts: [{}]\ncurrent-context: c\n"):
        path.write_text(text)
        assert in_file(str(path), None) is None
    assert in_file(str(tmp_path / "nowhere"), None) is None


def test_a_pods_own_account(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_pod(tmp_path, environ) is None
    (tmp_path / "token").write_text("t0\n")
    (tmp_path / "ca.crt").write_text("pem")
    assert in_pod(tmp_path, environ) == Plain("https://[fd00::1]:443", "default", "Bearer t0", "pem")
    (tmp_path / "namespace").write_text("jobs")
    assert in_pod(tmp_path, environ) == Plain("https://[fd00::1]:443", "jobs", "Bearer t0", "pem")
    assert in_pod(tmp_path, {}) is None
