"""Which rights the consumer really uses over a test run, against the Role that k8s/ ships: neither more nor less.

The fake API server's requests count in the plain suite, the audit log's in the suite on a real cluster. What merely
tries whether a right is there (a dry run, an object that isn't there) doesn't count as use. If only a part of a suite
ran, or tests failed, then nothing is missed: a comparison can only find too much.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from support.audit_log import AuditLog

RBAC = Path(__file__).parents[2] / "k8s" / "base" / "rbac.yaml"
AUDIT_SECONDS = 45
"""The audit log is written in batches, up to 30 s later."""

asked: set[str] = set()
"""Verbs that fake API servers were asked for, such as "get pods/log"."""
namespaces: set[str] = set()
"""Namespaces that this run made on a real cluster."""
_key = pytest.StashKey[AuditLog]()


class _Row(Protocol):
    """A request to a fake API server."""

    name: str
    query: dict[str, str]

    @property
    def verb(self) -> str:
        """As the Role says it."""


def note(rows: Iterable[_Row]) -> None:
    """Count these requests."""
    asked.update(row.verb for row in rows if not tries(row.name, row.query))


def granted() -> set[str]:
    """The Role in k8s/base/rbac.yaml, as verbs."""
    [role] = [item for item in yaml.safe_load_all(RBAC.read_text()) if item["kind"] == "Role"]
    return {f"{verb} {what}" for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}


def tries(name: str, query: dict[str, str]) -> bool:
    """It only tries whether it is allowed."""
    return "dryRun" in query or name == "ls-check" or query.get("limit") == "1"


def difference(used: set[str], *, whole: bool) -> list[str]:
    """A sentence for each right that is used and not granted, or, after a `whole` suite, granted and not used."""
    role = granted()
    found = [f"k8s/base/rbac.yaml doesn't grant '{verb}', which the consumer uses" for verb in sorted(used - role)]
    if whole:
        found += [f"k8s/base/rbac.yaml grants '{verb}', which nothing uses" for verb in sorted(role - used)]
    return found


def audited(lines: list[bytes], within: set[str]) -> set[str]:
    """What the user `consumer` used in these namespaces, by lines of an audit log."""
    used = set()
    for line in lines:
        said = json.loads(line)
        about = said.get("objectRef") or {}
        query = {name: values[0] for name, values in parse_qs(urlsplit(said["requestURI"]).query).items()}
        if about.get("namespace") in within and not tries(about.get("name", ""), query):
            used.add(f"{said['verb']} {'/'.join(filter(None, (about['resource'], about.get('subresource'))))}")
    return used


def _is_whole(session: pytest.Session, part: str) -> bool:
    """All tests of a part ran and passed. `part`: "plain" or "cluster"."""
    config = session.config
    chosen = str(config.getoption("markexpr"))
    plain = chosen in ("", "not cluster and not faktory and not docker")
    picked = bool(config.getoption("keyword")) or config.args_source is not config.ArgsSource.TESTPATHS
    right = plain if part == "plain" else "cluster" in chosen and "not cluster" not in chosen
    return right and not picked and not session.testsfailed and not session.shouldstop and not session.shouldfail


def pytest_configure(config: pytest.Config) -> None:
    """Where the audit log stands now."""
    path = Path(os.environ.get("LAB_AUDIT_LOG") or "")
    if path.is_file():
        config.stash[_key] = AuditLog(path)


def _audit(session: pytest.Session) -> list[str]:
    log = session.config.stash.get(_key, None)
    if log is None or not namespaces:
        return []
    whole, until = _is_whole(session, "cluster"), time.monotonic() + AUDIT_SECONDS
    used = set[str]()
    while True:
        used |= audited(log.read(), namespaces)
        found = difference(used, whole=whole)
        if not (whole and found) or time.monotonic() > until:
            return found
        time.sleep(1)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A parallel run: take over what a worker saw."""
    asked.update(getattr(node, "workeroutput", {}).get("asked", ()))
    namespaces.update(getattr(node, "workeroutput", {}).get("namespaces", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare; a difference fails the run."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # one of several: the others know more
        output["asked"], output["namespaces"] = sorted(asked), sorted(namespaces)
        return
    found = [*(difference(asked, whole=_is_whole(session, "plain")) if asked else []), *_audit(session)]
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for line in found:
            reporter.write_line(f"\n{line}", red=True)
