"""Where the Kubernetes API is and who we are there.

What `plain_access` can't read, such as exec plugins and OIDC, the `kubernetes` package (`kubernetes.aio.config`) does;
only the resulting host, certificates and token are taken from it. A token is read again at most each 60 s and once
after a 401, as bound service account tokens and exec plugins want it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from consumer.errors import SetupError
from consumer.executors.kubernetes.plain_access import Plain, in_file, in_pod, token_of
from consumer.executors.kubernetes.proxies import proxy_for
from consumer.settings import Kubernetes
from enqueue.tls import client_context

RELOAD_SECONDS = 60.0
RENEW_SECONDS = 5.0
"""A source that gave the same token that was refused is left alone for so long: a plugin is a process each time."""
PLUGIN_SECONDS = 60.0
"""How long an exec plugin may take."""
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Access:
    """Host, certificates and token of one cluster; made by `Access.load`."""

    def __init__(
        self,
        host: str,
        namespace: str = "default",
        *,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        proxy: str | None = None,
        server_name: str | None = None,
        source: str = "",
    ) -> None:
        self.host = host.rstrip("/")
        self.namespace = namespace
        self.tls = tls
        self.token = token
        self.proxy = proxy
        self.server_name = server_name
        self.source = source
        self._settings: Kubernetes | None = None
        self._loader: Any = None
        self._loaded = time.monotonic()
        self._fruitless = -RENEW_SECONDS
        self._lock = asyncio.Lock()

    @classmethod
    async def load(cls, settings: Kubernetes) -> Access:
        """Find the cluster: settings.kubeconfig, KUBECONFIG, ~/.kube/config, the pod's own account.

        Raises SetupError that names what is missing.
        """
        access = cls("")
        access._settings = settings
        await access._read()
        return access

    @property
    def place(self) -> str:
        """Where calls go, in words; a proxy without its password."""
        return f"{self.host} through the proxy {urlsplit(self.proxy).hostname}" if self.proxy else self.host

    async def authorization(self) -> str | None:
        """The Authorization header's value, read again from its source if it is old."""
        if self._settings is not None and self.token is not None and self._stale():
            async with self._lock:
                if self._stale():
                    try:
                        await self._read()
                    except SetupError:  # half-written files are whole a moment later; the API will say if not
                        self._loaded = time.monotonic()
        return self.token

    async def renew(self, refused: str | None) -> bool:
        """After a 401 with the token `refused`: read it again. False if that can't help."""
        if self._settings is None:
            return False
        async with self._lock:
            if self.token == refused:
                if time.monotonic() - self._fruitless < RENEW_SECONDS:
                    return False
                if self._loader is not None and hasattr(self._loader, "exec_plugin_expiry"):
                    del self._loader.exec_plugin_expiry
                try:
                    await self._read()
                except SetupError:
                    return False
                finally:
                    self._fruitless = time.monotonic() if self.token == refused else -RENEW_SECONDS
        return True

    def _stale(self) -> bool:
        if time.monotonic() - self._loaded < RELOAD_SECONDS:
            return False
        user = getattr(self._loader, "_user", None)
        if user is not None and "exec" in user:  # a plugin is run again only near its token's end
            expiry = getattr(self._loader, "exec_plugin_expiry", None)
            return expiry is not None and expiry.timestamp() - time.time() < 2 * RELOAD_SECONDS
        return True

    async def _read(self) -> None:
        assert self._settings is not None
        path = _kubeconfig(self._settings)
        plain = in_pod() if path is None else in_file(path, self._settings.context)
        if plain is not None:
            self._take(plain, path)
            return
        # Takes a quarter of a second to import: only whoever needs its help pays.
        from kubernetes.aio.client.configuration import Configuration
        from kubernetes.aio.config.config_exception import ConfigException
        from kubernetes.aio.config.incluster_config import load_incluster_config
        from kubernetes.aio.config.kube_config import load_kube_config

        found = type.__call__(Configuration)
        try:
            if path is None:
                load_incluster_config(client_configuration=found, try_refresh_token=False)  # type: ignore[no-untyped-call]
                namespace = _pod_namespace()
                self.source = "the pod's service account"
            else:
                loading = asyncio.ensure_future(
                    load_kube_config(  # type: ignore[no-untyped-call]
                        path, self._settings.context, client_configuration=found, persist_config=False
                    )
                )
                # Not cancelled: an exec plugin that is just being started may make that wait for ever.
                done, _ = await asyncio.wait({loading}, timeout=PLUGIN_SECONDS)
                if not done:
                    raise SetupError(f"the kubeconfig {path} can't be used: its exec plugin gives no answer")
                self._loader = loading.result()
                namespace = self._loader.current_context["context"].get("namespace") or "default"
                self.source = path
        except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if path is None:
                raise SetupError(
                    "no Kubernetes cluster: set KUBECONFIG or kubernetes.kubeconfig, or run inside a pod "
                    f"with a service account ({error})"
                ) from None
            raise SetupError(f"the kubeconfig {path} can't be used: {error}") from None
        user = getattr(self._loader, "_user", None)
        if user is not None and "exec" in user and not found.api_key.get("BearerToken") and not found.cert_file:
            raise SetupError(
                f"the kubeconfig {path} can't be used: its exec plugin {user['exec']['command']} gave no credentials"
            )
        host = str(found.host).rstrip("/")
        proxy = None if path is None else _proxy(found.proxy, host)
        self.tls = _context(found) if host.startswith("https") else None
        self.host, self.proxy, self.server_name = host, proxy, found.tls_server_name
        self.namespace = self._settings.namespace or namespace
        self.token = _token(self._loader) or found.api_key.get("BearerToken")
        self._loaded = time.monotonic()

    def _take(self, plain: Plain, path: str | None) -> None:
        assert self._settings is not None
        proxy = None if path is None else _proxy(plain.proxy, plain.host)
        try:
            self.tls = plain.context()
        except (OSError, ssl.SSLError) as error:
            raise SetupError(f"the cluster's certificates can't be read: {error}") from None
        self.host, self.namespace = plain.host, self._settings.namespace or plain.namespace
        self.token, self.proxy, self.server_name = plain.token, proxy, plain.server_name
        self.source = path or "the pod's service account"
        self._loader, self._loaded = None, time.monotonic()


def _pod_namespace() -> str:
    return _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.is_file() else "default"


def _kubeconfig(settings: Kubernetes) -> str | None:
    if settings.kubeconfig is not None:
        path = settings.kubeconfig.expanduser()
        if not path.is_file():
            raise SetupError(f"the kubeconfig {path} doesn't exist")
        return str(path)
    if named := os.environ.get("KUBECONFIG"):
        paths = [part for part in named.split(os.pathsep) if part]
        if not any(Path(part).expanduser().is_file() for part in paths):
            raise SetupError(f"the kubeconfig {named} (from KUBECONFIG) doesn't exist")
        return named
    home = Path("~/.kube/config").expanduser()
    return str(home) if home.is_file() else None


def _token(loader: Any) -> str | None:
    """What the package doesn't read as kubectl does: a token's file beside its text, and the line's end in a file."""
    user = getattr(loader, "_user", None)
    if user is None or "exec" in user or "auth-provider" in user:
        return None
    try:
        token = token_of(user.value, Path(loader._get_base_path(user.path)))
    except (OSError, ValueError, TypeError):  # the package has read it, or has said what is wrong
        return None
    return f"Bearer {token}" if token else None


def _proxy(named: str | None, host: str) -> str | None:
    """The kubeconfig's own, else the environment's. A pod goes straight to its own cluster: nobody asks this for it."""
    proxy = named or proxy_for(host, os.environ)
    if proxy and not proxy.lower().startswith(("http://", "https://")):
        kind = proxy.partition("://")[0] if "://" in proxy else "without http://"
        place = "the kubeconfig's proxy-url" if named else "HTTPS_PROXY or HTTP_PROXY"
        raise SetupError(f"{place} for {host}: only http:// and https:// are spoken, and this one is {kind}")
    return proxy or None


def _context(found: Any) -> ssl.SSLContext:
    try:
        context = client_context(cafile=found.ssl_ca_cert)
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file)
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"the cluster's certificates can't be read: {error}") from None
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
