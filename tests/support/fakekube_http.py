"""What the fake API server says over HTTP: its ledger, its faults, its Status bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic_core import to_json

KINDS = {"pods": "Pod", "secrets": "Secret", "leases": "Lease", "events": "Event"}
REFUSALS = {
    "quota": (403, "Forbidden", "exceeded quota: few, requested: pods=1, used: pods=0, limited: pods=0"),
    "security": (403, "Forbidden", 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'),
    "policy": (403, "Forbidden", "ValidatingAdmissionPolicy 'no' with binding 'no' denied request: not here"),
    "terminating": (403, "Forbidden", "unable to create new content in namespace {} because it is being terminated"),
    "webhook down": (500, "InternalError", 'failed calling webhook "policy.example.com": failed to call webhook: EOF'),
}
"""Why a pod is not created, with status, reason and the end of the message; {} is the namespace."""
_VERBS = {"POST": "create", "PUT": "update", "DELETE": "delete"}


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
        verb = _VERBS.get(self.method) or ("get" if self.name else "list")
        if self.query.get("watch") == "true":
            verb = "watch"
        return f"{verb} {self.resource}" + (f"/{self.sub}" if self.sub else "")


@dataclass
class Fault:
    """Happens to the next `times` requests with this verb ("create pods"). `drop`: before or after it took effect."""

    verb: str
    status: int = 0
    code: str = ""
    message: str = "injected"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = ""
    delay: float = 0.0
    hang: bool = False
    """It takes effect, and is never answered."""
    times: int = 1


def said(item: Mapping[str, Any], code: int = 200) -> web.Response:
    """An object as the body of an answer."""
    return web.Response(body=to_json(item), status=code, content_type="application/json")


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


def conflict(request: Request, why: str) -> web.Response:
    """409 for an object that isn't as the caller thinks."""
    kind = KINDS[request.resource]
    message = f'Operation cannot be fulfilled on {kind} "{request.name}": {why}'
    return status(409, "Conflict", message, {"name": request.name, "kind": kind})


def unmet(request: Request, meta: Mapping[str, Any], conditions: Mapping[str, str]) -> web.Response | None:
    """409 if a delete's preconditions aren't met."""
    for name, what in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        wanted = conditions.get(name, meta[name])
        if wanted != meta[name]:
            text = f"the {what} in the precondition ({wanted}) does not match the {what} in record ({meta[name]}). "
            return conflict(request, text + "The object might have been deleted and then recreated")
    return None


def replace(
    store: Callable[[str, str, dict[str, Any]], None], request: Request, item: dict[str, Any], new: dict[str, Any]
) -> web.Response:
    """An update: refused if it was made from another version."""
    version = item["metadata"]["resourceVersion"]
    if new["metadata"].get("resourceVersion", version) != version:
        why = "the object has been modified; please apply your changes to the latest version and try again"
        return conflict(request, why)
    new["metadata"] = {**item["metadata"], **new["metadata"]}
    if not request.query.get("dryRun"):
        store("MODIFIED", request.resource, new)
    return web.json_response(new)


def refusal(why: str, name: str, namespace: str) -> web.Response:
    """What REFUSALS says of the creation of a pod."""
    code, reason, message = REFUSALS[why]
    head = f'pods "{name}" is forbidden' if code == 403 else "Internal error occurred"
    return status(code, reason, f"{head}: {message.format(namespace)}", {"name": name, "kind": "pods"})


def matches(item: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    """An object fits the selectors of a query: labels, and fields by their dotted paths."""

    def pairs(name: str) -> list[tuple[str, str, str]]:
        return [part.partition("=") for part in query.get(name, "").split(",") if part]

    def value(path: str) -> Any:
        found: Any = item
        for step in path.split("."):
            found = found.get(step) or {}
        return found

    labels = item["metadata"].get("labels") or {}
    fits = all(labels.get(key) == wanted for key, _, wanted in pairs("labelSelector"))
    return fits and all(value(path) == wanted for path, _, wanted in pairs("fieldSelector"))
