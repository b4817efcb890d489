"""Authorities as they were made before Python 3.13 asked for more: what kubectl, docker and faktory take, we take."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.executors.docker.engine import _ssl
from consumer.executors.kubernetes.access import Access
from consumer.settings import Kubernetes
from enqueue.backends.faktory_client import tls_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
TOKEN = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}'
PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "echo",
    "args": [TOKEN],
    "interactiveMode": "Never",
}

Maker = Callable[[Path], Any]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem without key identifiers and key usage; cert.pem with key.pem for localhost, signed by it."""
    at = tmp_path_factory.mktemp("pki")
    bare = "subjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"
    (at / "ext").write_text(f"{bare}subjectAltName=DNS:localhost\n")
    (at / "authority").write_text(
        f"[req]\ndistinguished_name=name\nx509_extensions=own\n[name]\n[own]\n{bare}basicConstraints=critical,CA:true\n"
    )
    new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"{new} -x509 -days 2 -subj /CN=old -config authority -keyout ca.key -out ca.pem",
        f"{new} -subj /CN=localhost -keyout key.pem -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=at, check=True, capture_output=True)
    return at


@pytest.fixture(autouse=True)
def python_3_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts are made as Python 3.13 makes them, whatever runs this."""
    make = ssl.create_default_context

    def strict(*args: Any, **named: Any) -> ssl.SSLContext:
        context = make(*args, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


def handshake(client: ssl.SSLContext, pki: Path, name: str = "localhost") -> None:
    """Both sides of one, in memory. Raises SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname=name)
    answering = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert asking.version()


async def kubernetes(pki: Path, at: Path, user: dict[str, Any]) -> ssl.SSLContext:
    authority = base64.b64encode((pki / "ca.pem").read_bytes()).decode()
    cluster = {"server": "https://localhost:6443", "certificate-authority-data": authority}
    path = at / "kubeconfig"
    entry = {"name": "x", "context": {"cluster": "x", "user": "x"}, "cluster": cluster, "user": user}
    whole: dict[str, Any] = {"current-context": "x", "contexts": [entry], "clusters": [entry], "users": [entry]}
    path.write_text(yaml.safe_dump(whole))
    access = await Access.load(Kubernetes(kubeconfig=path))
    assert access.tls is not None
    return access.tls


def test_python_3_13_refuses_them(pki: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"Key Identifier|key usage"):
        handshake(ssl.create_default_context(cafile=str(pki / "ca.pem")), pki)


@pytest.mark.parametrize("user", [{"token": "t"}, {"exec": PLUGIN}], ids=["read plainly", "by the package"])
async def test_a_cluster_with_an_old_authority_is_spoken_to(user: dict[str, Any], pki: Path, tmp_path: Path) -> None:
    context = await kubernetes(pki, tmp_path, user)
    handshake(context, pki)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|mismatch"):
        handshake(context, pki, "other.example")


@pytest.mark.parametrize("make", [_ssl, lambda at: tls_context(str(at / "ca.pem"))], ids=["docker", "faktory"])
def test_so_are_an_engine_and_a_faktory(make: Maker, pki: Path) -> None:
    handshake(make(pki), pki)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|mismatch"):
        handshake(make(pki), pki, "other.example")


def test_another_authority_is_refused_as_ever(pki: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get|self-signed|self signed"):
        handshake(tls_context(), pki)
