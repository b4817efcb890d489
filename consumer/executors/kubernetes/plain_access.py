"""Reads the usual ways to a cluster by itself: a pod's own account, a kubeconfig with a token or certificates.

The `kubernetes` package reads all of them and more, and takes a quarter of a second to import. What isn't plain, or
isn't sound, is left to it: plugins, OIDC, several files, words that aren't known here. Source: the kubeconfig format
(v1) in client-go's `clientcmd/api`, and "Accessing the Kubernetes API from a Pod".
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from enqueue.tls import client_context

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_USER = {"token", "tokenFile"} | {f"client-{what}{how}" for what in ("certificate", "key") for how in ("", "-data")}
_CLUSTER = {"server", "certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"}
_CLUSTER |= {"tls-server-name", "proxy-url", "extensions"}


@dataclass(frozen=True, slots=True)
class Plain:
    """Where the API is and who we are there; `authority`, `certificate` and `key` as PEM."""

    host: str
    namespace: str
    token: str | None = field(default=None, repr=False)
    authority: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    insecure: bool = False
    server_name: str | None = None
    proxy: str | None = None

    def context(self) -> ssl.SSLContext | None:
        """For its TLS; None without. Raises OSError, SSLError for certificates that can't be read."""
        if not self.host.startswith("https"):
            return None
        context = client_context(cadata=self.authority)
        if self.certificate is not None:
            with tempfile.NamedTemporaryFile("w") as file:  # Python's ssl reads it from files alone; 0600
                file.write(f"{self.certificate}\n{self.key or ''}\n")
                file.flush()
                context.load_cert_chain(file.name)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def in_pod(account: Path = ACCOUNT, environ: Mapping[str, str] = os.environ) -> Plain | None:
    """The pod's own account; None if there is none, or not whole."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return None
    try:
        token, authority = (account / "token").read_text(), (account / "ca.crt").read_text()
        space = account / "namespace"
        namespace = space.read_text().strip() if space.is_file() else "default"
    except OSError:
        return None
    if not token or not authority:
        return None
    where = f"[{host}]" if ":" in host else host
    return Plain(f"https://{where}:{port}", namespace, f"Bearer {token.strip()}", authority)


def in_file(path: str, context: str | None) -> Plain | None:
    """What one kubeconfig says; None if it isn't plain."""
    try:
        file = Path(path).expanduser()
        return _read(yaml.safe_load(file.read_text()), file.absolute().parent, context)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None  # the package says what is wrong with it


def _read(config: Any, base: Path, wanted: str | None) -> Plain | None:
    context = _named(config["contexts"], wanted or config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    if not (user.keys() <= _USER and cluster.keys() <= _CLUSTER and cluster["server"]):
        return None
    insecure = cluster.get("insecure-skip-tls-verify", False)
    if not isinstance(insecure, bool):
        return None
    host = cluster["server"].rstrip("/")
    tls = host.startswith("https")
    token = token_of(user, base)
    certificate = _pem(user, "client-certificate", base) if tls else None
    key = _pem(user, "client-key", base) if tls else None
    if (certificate is None) != (key is None):
        return None
    return Plain(
        host,
        context.get("namespace") or "default",
        f"Bearer {token}" if token else None,
        _pem(cluster, "certificate-authority", base) if tls else None,
        certificate,
        key,
        insecure,
        cluster.get("tls-server-name"),
        cluster.get("proxy-url"),
    )


def token_of(user: Mapping[str, str], base: Path) -> str | None:
    """A kubeconfig user's token. Of a text and a file, which somebody renews, the file counts, as it does for kubectl.

    Raises OSError, UnicodeDecodeError for a file that can't be read, where there is no text to do instead.
    """
    text = user.get("token") or None
    if not user.get("tokenFile"):
        return text
    try:
        return (base / user["tokenFile"]).read_text().strip() or text
    except (OSError, UnicodeDecodeError):
        if text is None:
            raise
        return text


def _named(entries: Any, name: str) -> Any:
    [entry] = [entry for entry in entries if entry["name"] == name]
    return entry


def _pem(holder: Mapping[str, str], name: str, base: Path) -> str | None:
    if data := holder.get(f"{name}-data"):
        return base64.b64decode(data, validate=True).decode()
    return (base / holder[name]).read_text() if name in holder else None
