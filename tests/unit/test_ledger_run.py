"""The comparison at the end of a whole test run, in one process and in several: it passes, and it can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ledger

TESTS = Path(ledger.__file__).parent.parent
CONFTEST = """
from support import ledger
from support.ledger import pytest_configure, pytest_sessionfinish, pytest_testnodedown
ledger.AUDIT_SECONDS = 0
"""
SUITE = """
import json, os, pytest
from support import ledger

USED = json.loads(os.environ["USED"])

@pytest.mark.parametrize("verb", USED)
def test_plain(verb):
    ledger.asked.add(verb)

@pytest.mark.cluster
@pytest.mark.parametrize("verb", USED)
def test_cluster(verb):
    ledger.namespaces.add("ours")
    resource, _, sub = verb.split(" ")[1].partition("/")
    about = {"namespace": "ours", "resource": resource, "subresource": sub, "name": "p"}
    with open(os.environ["LAB_AUDIT_LOG"], "a") as log:
        print(json.dumps({"verb": verb.split(" ")[0], "requestURI": "/x", "objectRef": about}), file=log)
"""
PLAIN = "not cluster and not faktory and not docker"


@pytest.mark.parametrize(("workers", "marks"), [(2, PLAIN), (0, "cluster or faktory")], ids=["plain", "cluster"])
def test_a_whole_run_ends_with_the_comparison(workers: int, marks: str, tmp_path: Path) -> None:
    names = "markers = [ 'cluster', 'faktory', 'docker' ]"
    (tmp_path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\ntestpaths = ['t']\n{names}\n")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "t" / "test_it.py").write_text(SUITE)
    (tmp_path / "audit.log").touch()
    role = sorted(ledger.granted())

    def run(used: list[str]) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {
            "PYTHONPATH": str(TESTS),
            "USED": json.dumps(used),
            "LAB_AUDIT_LOG": str(tmp_path / "audit.log"),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:valkey", "-p", "no:cacheprovider"]
        command += ["-n", str(workers), "-m", marks]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    code, told = run(role)
    assert code == 0, told
    code, told = run([*role[1:], "get secrets"])
    assert code == 1, told
    assert f"grants '{role[0]}', which nothing uses" in told
    assert "doesn't grant 'get secrets', which the consumer uses" in told
