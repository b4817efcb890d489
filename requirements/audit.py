"""`make audit-deps`: are there known vulnerabilities in what longshore installs? By pip-audit, which it makes strict.

pip-audit calls what its service doesn't know "skipped" and is content: on a mirror, or without a network, that is all.
Exits 1 if there are vulnerabilities, 2 if something could not be audited, both with their names. With `--if-possible`
what could not be audited is told, and is no failure: for machines that reach a mirror alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILES = ("producer.txt", "consumer.txt")


def audited(pip_audit: list[str], name: str) -> list[dict[str, Any]] | None:
    """What it says of each dependency; None if it said nothing."""
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "-f", "json", "-r", str(HERE / name)]
    done = subprocess.run([*pip_audit, *options], capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip-audit said nothing")
        return None
    return found


def main(pip_audit: list[str]) -> int:
    """The exit code. `pip_audit`: the command, after our own option."""
    lenient = pip_audit[:1] == ["--if-possible"]
    pip_audit, code = pip_audit[lenient:], 0
    for name in FILES:
        found = audited(pip_audit, name)
        known = [one for one in found or () if "vulns" in one]
        for one in known:
            for vulnerability in one["vulns"]:
                fixed = ", ".join(vulnerability.get("fix_versions") or ()) or "no version yet"
                print(f"{name}: {one['name']} {one['version']}: {vulnerability['id']}, mended in {fixed}")
                code = 1
        missed = len(found) - len(known) if found is not None else "all"
        if missed:
            why = "the service can't be reached, or is a mirror that can't tell"
            print(f"{name}: NOT AUDITED: {missed} packages; {why}")
            code = code or (0 if lenient else 2)
        else:
            print(f"{name}: {len(known)} packages audited")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
