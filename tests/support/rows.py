"""The fault matrix and its proofs: every row names the tests that show its behaviour; docs/faults.md is made of it.

A test joins a row by `@pytest.mark.row(22)`, or by its name in rows.yaml. Run as a script it writes the document.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
TESTS = ROOT / "tests"

ROWS: dict[int, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "rows.yaml").read_text())
"""Row -> fault, behaviour, and the tests that carry no marker (`*`: all of the file)."""


@cache
def functions(path: Path) -> dict[str, tuple[int, ...]]:
    """The tests of a file, with the rows of their markers."""
    found: dict[str, tuple[int, ...]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
            marks = [mark for mark in marks if ast.unparse(mark.func) == "pytest.mark.row"]
            found[node.name] = tuple(ast.literal_eval(argument) for mark in marks for argument in mark.args)
    return found


def marked() -> Iterator[tuple[int, str]]:
    """Rows and the tests that carry their number."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, rows in functions(path).items():
            for row in rows:
                yield row, f"{path.relative_to(TESTS)}::{name}"


def named_wrongly() -> list[str]:
    """Tests in ROWS that aren't there."""
    wrong = []
    for row, entry in ROWS.items():
        for test in entry.get("tests", ()):
            path, _, name = test.partition("::")
            there = functions(TESTS / path) if (TESTS / path).is_file() else {}
            if not there or (name != "*" and name not in there):
                wrong.append(f"row {row}: {test}")
    return wrong


def proofs() -> dict[int, list[str]]:
    """Row -> all its tests."""
    found = {row: list(entry.get("tests", ())) for row, entry in ROWS.items()}
    for row, test in marked():
        if test not in found.setdefault(row, []):
            found[row].append(test)
    return found


def document() -> str:
    """docs/faults.md."""
    lines = [
        "# Faults and their tests",
        "",
        "What can go wrong, what happens then, and the tests that show it. Made of `tests/support/rows.yaml` and the",
        "markers `@pytest.mark.row`; `python tests/support/rows.py` writes it anew. Tests in `tests/cluster` need a",
        "cluster; those in `tests/contracts` run on the simulated API server, and on a cluster where there is one.",
        "",
        "| row | fault | behaviour | tests |",
        "|---|---|---|---|",
    ]
    tests = proofs()
    for row, entry in ROWS.items():
        cells = "<br>".join(f"`{test.rpartition('::')[2] if test[-1] != '*' else test[:-3]}`" for test in tests[row])
        lines.append(f"| {row} | {entry['fault']} | {entry['behaviour']} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "faults.md").write_text(document())
