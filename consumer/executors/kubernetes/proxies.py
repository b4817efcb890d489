"""The proxy that the environment names for a server, as kubectl reads it: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.

Source: `golang.org/x/net/http/httpproxy`, which client-go asks where a kubeconfig has no `proxy-url`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http://", "https://", "socks5://")
_ENTRY = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:]*))(?::(?P<port>[0-9]+))?")


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The URL of the proxy on the way to this one; None for none, as always for this machine itself."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return None
    if scheme not in _PORTS or not host:
        return None
    proxy = _set(environ, f"{scheme}_proxy")
    if not proxy or _direct(host, port or _PORTS[scheme], _set(environ, "no_proxy")):
        return None
    return proxy if proxy.lower().startswith(_SCHEMES) else f"http://{proxy}"


def _set(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name.upper()) or environ.get(name) or ""


def _direct(host: str, port: int, listed: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, address, port) for entry in listed.split(","))


def _matches(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    """`*`, a network (10.0.0.0/8), an address or a name, the last two perhaps with a port.

    `example.com` stands for all names below it too, `.example.com` and `*.example.com` for these alone.
    """
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry, strict=False)
        except ValueError:
            return False
    if (alone := _address(entry)) is not None:
        return alone == address
    found = _ENTRY.fullmatch(entry)
    if found is None or (found["port"] and int(found["port"]) != port):
        return False
    name = found["address"] or found["name"] or ""
    if (wanted := _address(name)) is not None:
        return wanted == address
    below = name.removeprefix("*") if name.startswith("*.") else name
    if below.startswith("."):
        return host.endswith(below)
    return bool(below) and (host == below or host.endswith(f".{below}"))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
