"""What `longshore audit` found, for people's eyes, as JSON, or as metrics."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from rich.console import Console
from rich.text import Text

from consumer.audit_kinds import KINDS, Looked


def print_audit(looked: Looked, form: str) -> None:
    """`form`: text, json or prometheus."""
    if form == "json":
        sys.stdout.write(json.dumps(plain(looked)) + "\n")
    elif form == "prometheus":
        sys.stdout.write(metrics(looked, time.time()))
    else:
        _print(looked)


def plain(looked: Looked) -> dict[str, object]:
    """For JSON."""
    rows = [
        {"kind": f.kind, "sort": f.sort.value, "subject": f.subject, "text": f.text, "fix": f.fix}
        for f in looked.faults
    ]
    return {"clean": not rows, "faults": rows, "looked_at": looked.counts, "partial": looked.partial}


def metrics(looked: Looked, now: float) -> str:
    """Prometheus' text format, a line for each kind, so that an alert may ask for what was never found."""
    counts = Counter(fault.kind for fault in looked.faults)
    lines = ["# HELP longshore_audit_faults What the last audit found.", "# TYPE longshore_audit_faults gauge"]
    for kind, about in KINDS.items():
        lines.append(f'longshore_audit_faults{{kind="{kind}",sort="{about.sort}"}} {counts[kind]}')
    lines += ["# HELP longshore_audit_time_seconds When it ended.", "# TYPE longshore_audit_time_seconds gauge"]
    return "\n".join([*lines, f"longshore_audit_time_seconds {now:.0f}", ""])


def _print(looked: Looked) -> None:
    console = Console(highlight=False)
    for fault in looked.faults:
        console.print(Text.assemble((fault.sort.ljust(10), "red"), fault.text), soft_wrap=True)
        console.print(Text(f"{'':10}{fault.kind}: {fault.fix}", style="dim"), soft_wrap=True)
    for note in looked.partial:
        console.print(Text.assemble(("note".ljust(10), "yellow"), note), soft_wrap=True)
    seen = ", ".join(f"{number} {what}" for what, number in looked.counts.items())
    many = len(looked.faults)
    said = "nothing is lost, doubled, orphaned or overdue" if not many else "1 fault" if many == 1 else f"{many} faults"
    console.print(Text.assemble((said, "red bold" if many else "green bold"), f" ({seen})"), soft_wrap=True)
