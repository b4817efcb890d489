"""The client: what it tries again, what it says, where it looks for the cluster."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from consumer.errors import SetupError
from consumer.executors.kubernetes import access as access_module
from consumer.executors.kubernetes.access import Access
from consumer.executors.kubernetes.api import Api, ApiError, error_of, path_of
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.kubernetes import kubeconfig_of

PODS = path_of("jobs", "pods")


@pytest.fixture(autouse=True)
def _own_calls(kube: FakeKube) -> None:
    kube.counts = False  # what is asked here is no consumer's


def test_url_parts_are_encoded() -> None:
    assert path_of("a/../b", "pods", "x?y#z%") == "/api/v1/namespaces/a%2F..%2Fb/pods/x%3Fy%23z%25"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"kind":"Status","reason":"NotFound","message":"pods \\"x\\" not found"}', 'pods "x" not found'),
        (b"<html><head><title>t</title></head><body>Bad <b>Gateway</b></body></html>", "t Bad Gateway"),
        (b"", "HTTP 404"),
        (b'{"half', '{"half'),
        (b"[1]", "HTTP 404"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 100_000, "x" * 500 + " ..."),
    ],
)
def test_any_body_of_an_error_is_read(body: bytes, said: str) -> None:
    assert error_of(404, body).message == said


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("900", 60.0), ("x", None), (None, None), ("-1", 0.0)])
def test_retry_after_is_kept_within_bounds(header: str | None, seconds: float | None) -> None:
    assert error_of(429, b"", header).retry_after == seconds


async def test_what_passes_is_tried_again_and_what_stays_is_not(kube: FakeKube, api: Api) -> None:
    for status in (500, 502, 503, 504):
        kube.fault("list pods", status=status, body=b"<html>no</html>")
    kube.fault("list pods", status=429, headers={"Retry-After": "0"})
    kube.fault("list pods", drop="after")
    # the pauses of six tries are drawn: this needs more patience than they can add up to
    assert (await api.request("GET", PODS, patience=60))["items"] == []
    assert len(kube.ledger) == 7
    with pytest.raises(ApiError) as caught:
        await api.request("GET", path_of("jobs", "pods", "none"))
    assert caught.value.status == 404
    assert len(kube.ledger) == 8


@pytest.mark.parametrize("how", ["stream", "fetch"])
async def test_a_stream_that_is_one_too_many_holds_up_all(
    kube: FakeKube, api: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    held: list[float] = []
    monkeypatch.setattr(api._all, "hold", held.append)
    for status in (429, 503):
        kube.fault("list pods", status=status, headers={"Retry-After": "3"})
        with pytest.raises(ApiError) as caught:
            async with getattr(api, how)(PODS, {}):
                pass
        assert caught.value.retry_after == 3.0
    assert held == [3.0]


async def test_patience_ends(kube: FakeKube, api: Api) -> None:
    kube.fault("list pods", status=503, times=1000)
    with pytest.raises(ApiError, match="injected") as caught:
        await api.request("GET", PODS, patience=0.3)
    assert caught.value.passing
    assert len(kube.ledger) < 20


async def test_no_answer_names_the_server(kube: FakeKube, api: Api) -> None:
    await kube.stop()
    with pytest.raises(ApiError, match=f"no Kubernetes API at {kube.url}: connection refused") as caught:
        await api.request("GET", PODS, patience=0)
    assert caught.value.status == 0


async def test_an_answer_that_isnt_json_is_an_error(kube: FakeKube, api: Api) -> None:
    kube.fault("list pods", status=200, body=b"<html>log in</html>")
    with pytest.raises(ApiError, match="is a proxy in the way"):
        await api.request("GET", PODS, patience=0)


async def test_a_new_token_is_read_once_after_a_401(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "RENEW_SECONDS", 0)
    path = kubeconfig_of(kube.url, tmp_path, token="old")
    kube.token = "Bearer old"
    api = Api(await Access.load(Kubernetes(kubeconfig=path)), rate=1000, patience=0)
    await api.request("GET", PODS)
    kube.token = "Bearer new"
    with pytest.raises(ApiError) as caught:
        await api.request("GET", PODS)
    assert caught.value.status == 401
    assert len(kube.ledger) == 3
    kubeconfig_of(kube.url, tmp_path, token="new")
    await api.request("GET", PODS)
    assert [row.status for row in kube.ledger] == [200, 401, 401, 401, 200]
    await api.close()


async def test_a_token_is_read_again_after_a_while(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig_of(kube.url, tmp_path, token="old")
    access = await Access.load(Kubernetes(kubeconfig=path))
    kubeconfig_of(kube.url, tmp_path, token="new")
    assert await access.authorization() == "Bearer old"
    monkeypatch.setattr(access_module, "RELOAD_SECONDS", 0)
    assert await access.authorization() == "Bearer new"
    path.write_text("not: [whole")
    assert await access.renew("Bearer new") is False
    assert await access.authorization() == "Bearer new"


async def test_an_exec_plugin_gives_the_token(kube: FakeKube, tmp_path: Path) -> None:
    path = kubeconfig_of(kube.url, tmp_path)
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}
    plugin = {"apiVersion": credential["apiVersion"], "command": "echo", "args": [json.dumps(credential)]}
    plugin["interactiveMode"] = "Never"
    config = json.loads(path.read_text())
    config["users"][0]["user"] = {"exec": plugin}
    path.write_text(json.dumps(config))
    access = await Access.load(Kubernetes(kubeconfig=path))
    assert await access.authorization() == "Bearer t"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo junk", "gave no credentials"),
        ("exit 1", "gave no credentials"),
        ("echo $$ > pid; exec sleep 30", "gives no answer"),
    ],
)
async def test_an_exec_plugin_that_gives_nothing_is_named(
    kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setattr("consumer.executors.kubernetes.access.PLUGIN_SECONDS", 2 if "sleep" in command else 20)
    path = kubeconfig_of(kube.url, tmp_path)
    config = json.loads(path.read_text())
    monkeypatch.chdir(tmp_path)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", command]}
    config["users"][0]["user"] = {"exec": plugin | {"interactiveMode": "Never"}}
    path.write_text(json.dumps(config))
    with pytest.raises(SetupError, match=said):
        await Access.load(Kubernetes(kubeconfig=path))
    if "sleep" in command:  # end the one that gives no answer, and who waits for it
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*(task for task in others if "load_kube" in repr(task)), return_exceptions=True)


async def test_where_the_cluster_is_looked_for(kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SetupError, match="no Kubernetes cluster: set KUBECONFIG"):
        await Access.load(Kubernetes())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SetupError, match=r"none \(from KUBECONFIG\) doesn't exist"):
        await Access.load(Kubernetes())
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(kube.url, tmp_path)))
    assert (await Access.load(Kubernetes())).namespace == "default"
    found = await Access.load(Kubernetes(namespace="mine"))
    assert (found.host, found.namespace) == (kube.url, "mine")
    with pytest.raises(SetupError, match="can't be used"):
        await Access.load(Kubernetes(context="other"))


async def test_the_rate_is_kept(kube: FakeKube) -> None:
    api = Api(Access(kube.url, "jobs"), rate=50, patience=5)
    began = time.monotonic()
    await asyncio.gather(*(api.request("GET", PODS) for _ in range(125)))
    assert time.monotonic() - began >= 0.45  # 100 at once, 25 more at 50 a second
    await api.close()
