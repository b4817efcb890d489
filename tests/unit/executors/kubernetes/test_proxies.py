"""The environment's proxies: obeyed as kubectl obeys them, never on the way to this machine or out of a pod."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import SetupError
from consumer.executors.kubernetes import access as access_module
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError
from consumer.executors.kubernetes.plain_access import Plain
from consumer.executors.kubernetes.proxies import proxy_for
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of

VARIABLES = [made for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for made in (name, name.lower())]
PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "echo",
    "args": ['{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}'],
    "interactiveMode": "Never",
}


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def made(path: Path, server: str, user: dict[str, Any], **cluster: str) -> Path:
    entry = {"name": "x", "context": {"cluster": "x", "user": "x"}, "cluster": {"server": server, **cluster}}
    entry["user"] = user
    whole = {"kind": "Config", "current-context": "x", "contexts": [entry], "clusters": [entry], "users": [entry]}
    path.write_text(json.dumps(whole))
    return path


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://k.example", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://k.example", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("https://k.example", {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "http://p:1"),
        ("https://k.example", {"HTTPS_PROXY": "", "https_proxy": "http://q:1"}, "http://q:1"),
        ("https://k.example", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://k.example", {"HTTPS_PROXY": "HTTPS://p"}, "HTTPS://p"),
        ("https://k.example", {"HTTP_PROXY": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ("http://k.example", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://k.example", {"HTTPS_PROXY": "http://p:1"}, None),
        ("k.example:6443", {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:1"}, None),
        ("https://k.example:none", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://[k", {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, environ) == proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8:6443", "[::1]:6443", "localhost:6443", "LOCALHOST"])
def test_this_machine_itself_is_spoken_to_directly(host: str) -> None:
    for scheme in ("http", "https"):
        assert proxy_for(f"{scheme}://{host}", dict.fromkeys(VARIABLES[:4], "http://p:1")) is None


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("*", "k.example", True),
        ("other, k.example", "k.example", True),
        ("K.Example", "k.example", True),
        ("example", "k.example", True),
        ("k.example", "a.k.example", True),
        ("k.example", "ak.example", False),
        (".example", "k.example", True),
        (".k.example", "k.example", False),
        ("*.example", "k.example", True),
        ("*.k.example", "k.example", False),
        ("k.example:443", "k.example", True),
        ("k.example:6443", "k.example", False),
        ("k.example:6443", "k.example:6443", True),
        ("10.0.0.0/8", "10.1.2.3:6443", True),
        ("10.0.0.7/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:6443", "10.1.2.3", False),
        ("10.1.2.3:6443", "10.1.2.3:6443", True),
        ("fd00::/8", "[fd00::1]", True),
        ("fd00::/8", "10.1.2.3", False),
        ("fd00::1", "[fd00:0::1]:6443", True),
        ("[fd00::1]:6443", "[fd00::1]:6443", True),
        ("[fd00::1]:6443", "[fd00::1]", False),
        (",, :443,a:b:c,[x", "k.example", False),
        ("", "k.example", False),
    ],
)
def test_whom_no_proxy_leaves_out(listed: str, host: str, direct: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": listed}
    assert proxy_for(f"https://{host}", environ) == (None if direct else "http://p:1")


@pytest.mark.parametrize("user", [{"token": "t"}, {"exec": PLUGIN}], ids=["plain", "by the package"])
async def test_a_kubeconfigs_own_proxy_wins_over_the_environments(
    user: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def proxy(server: str, **cluster: str) -> str | None:
        path = made(tmp_path / "kubeconfig", server, user, **cluster)
        return (await Access.load(Kubernetes(kubeconfig=path))).proxy

    assert await proxy("https://k.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "near.example")
    assert await proxy("https://k.example") == "http://proxy.example:3128"
    assert await proxy("https://near.example") is None
    assert await proxy("https://127.0.0.1:6443") is None
    for server in ("https://k.example", "https://near.example"):
        assert await proxy(server, **{"proxy-url": "http://own.example:1"}) == "http://own.example:1"
    with pytest.raises(SetupError, match=r"proxy-url for https://k\.example: only .* and this one is socks5"):
        await proxy("https://k.example", **{"proxy-url": "socks5://user:hunter2@own.example:1"})
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:hunter2@proxy.example:1")
    with pytest.raises(SetupError, match=r"HTTPS_PROXY .*this one is socks5") as caught:
        await proxy("https://k.example")
    assert "hunter2" not in str(caught.value)


async def test_a_pod_goes_straight_to_its_own_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(access_module, "in_pod", lambda: Plain("https://10.96.0.1:443", "jobs", "Bearer t"))
    access = await Access.load(Kubernetes())
    assert (access.host, access.proxy) == ("https://10.96.0.1:443", None)


async def test_calls_go_through_the_environments_proxy(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy answers by itself, and keeps what it was asked for."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        path = made(tmp_path / "far", "http://k.example:8001", {"token": "t"})
        for kubeconfig in (path, kubeconfig_of(kube.url, tmp_path)):
            api = Api(await Access.load(Kubernetes(kubeconfig=kubeconfig)), patience=0)
            try:
                await api.request("GET", "/api/v1/namespaces/jobs/pods")
            finally:
                await api.close()
    api = Api(await Access.load(Kubernetes(kubeconfig=path)), patience=0)
    with pytest.raises(ApiError, match=r"at http://k\.example:8001 through the proxy 127\.0\.0\.1: connection refused"):
        await api.request("GET", "/version")
    await api.close()
    assert asked == [b"GET http://k.example:8001/api/v1/namespaces/jobs/pods HTTP/1.1"]
    assert len(kube.ledger) == 1
