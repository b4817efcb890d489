"""What `longshore check` found, for people's eyes or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import yaml
from rich.console import Console
from rich.text import Text

from consumer.check import Preview, sound
from consumer.findings import Finding, Level

_MARKS = {
    Level.GOOD: ("ok", "green"),
    Level.WARNING: ("warning", "yellow"),
    Level.PROBLEM: ("problem", "red"),
    Level.UNKNOWN: ("unknown", "dim"),
}


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """A line each, with the way out beneath it."""
    if as_json:
        rows = [{k: v for k, v in asdict(finding).items() if v is not None} for finding in findings]
        sys.stdout.write(json.dumps({"sound": sound(findings), "findings": rows}) + "\n")
        return
    console = Console(highlight=False)
    wide = max(len(finding.area) for finding in findings) + 2
    for finding in findings:
        mark, style = _MARKS[finding.level]
        head = Text.assemble((mark.ljust(9), style), (finding.area.ljust(wide), "dim"), finding.text)
        console.print(head, soft_wrap=True)
        if finding.fix and finding.level is not Level.GOOD:
            console.print(Text(" " * (9 + wide) + finding.fix, style="dim"), soft_wrap=True)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    said = "all is sound" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
    console.print(Text(said, style="red bold" if problems else "green bold"))


def print_preview(preview: Preview, as_json: bool) -> None:
    """The objects as YAML documents; what would be refused goes to standard error."""
    if as_json:
        sys.stdout.write(json.dumps(preview.plain()) + "\n")
        return
    for refusal in preview.refused:
        sys.stderr.write(f"longshore: the job would be refused: {refusal}\n")
    shown = preview.objects or ((preview.process,) if preview.process else ())
    if shown:
        sys.stdout.write(yaml.dump_all(shown, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
    elif not preview.refused:
        sys.stdout.write(f"# the executor {preview.executor} would run nothing\n")


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks, nothing by reference."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
