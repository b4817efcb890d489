"""What the fake API server says over HTTP: its ledger, its faults, its Status bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KINDS = {"pods": "Pod", "secrets": "Secret"}


@dataclass
class Request:
    """One line of the ledger."""

    method: str
    resource: str
    name: str
    sub: str
    query: dict[str, str]
    status: int = 0

    @property
    def verb(self) -> str:
        """As RBAC says it, with the subresource: list, create pods, get pods/log."""
        verb = {"POST": "create", "DELETE": "delete"}.get(self.method) or ("get" if self.name else "list")
        if self.query.get("watch") == "true":
            verb = "watch"
        return f"{verb} {self.resource}" + (f"/{self.sub}" if self.sub else "")


@dataclass
class Fault:
    """Happens to the next `times` requests with this verb ("create pods"). `drop`: before or after it took effect."""

    verb: str
    status: int = 0
    message: str = "injected"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = ""
    delay: float = 0.0
    times: int = 1


def drop(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Cut the connection, in the middle of `response` if given."""
    if request.transport is not None:
        request.transport.close()
    return response or web.Response()


def status(
    code: int, reason: str, message: str, details: Mapping[str, Any] | None = None, headers: Any = None
) -> web.Response:
    """An error as the API words it."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    body |= {"reason": reason, "details": dict(details or {}), "code": code}  # type: ignore[dict-item]
    return web.json_response(body, status=code, headers=headers)
