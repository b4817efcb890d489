"""What the API server's audit log tells of the consumers' requests, where LAB_AUDIT_LOG names it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

MOST = 600
"""Requests a second in a namespace: three consumers with the default `kubernetes.rate`. A hot loop makes more."""


class AuditLog:
    """Requests in these namespaces since now; of a log that is rotated meanwhile only the newest file."""

    def __init__(self) -> None:
        self._path = Path(os.environ.get("LAB_AUDIT_LOG", ""))
        self._start = self._path.stat().st_size if self._path.is_file() else None

    def told(self, namespaces: set[str]) -> dict[str, Any]:
        """Requests in all, the most within a second, and by verb; nothing without a log."""
        if self._start is None:
            return {}
        seconds, verbs = Counter[tuple[str, str]](), Counter[str]()
        ids: set[str] = set()
        with self._path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size >= self._start
            file.seek(self._start if whole else 0)
            for row in file:
                if not any(name.encode() in row for name in namespaces):
                    continue
                said = json.loads(row)
                where = said.get("objectRef", {})
                if where.get("namespace") not in namespaces or said["auditID"] in ids:
                    continue
                ids.add(said["auditID"])
                seconds[where["namespace"], said["requestReceivedTimestamp"][:19]] += 1
                verbs[f"{said['verb']} {where['resource']}/{where.get('subresource', '')}".rstrip("/")] += 1
        most = max(seconds.values(), default=0)
        return {"in all": sum(verbs.values()), "most in a second": most, "by kind": dict(verbs), "whole log": whole}
