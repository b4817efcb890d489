"""Alerts, dashboard and docs ask for series that there are, in PromQL that a parser accepts, and leave none out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from consumer.metrics import MEASURES, Metrics

ROOT = Path(__file__).parents[2]
ALERTS = yaml.safe_load((ROOT / "k8s/monitoring/alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "k8s/monitoring/dashboard.json").read_text())
DOCS = (ROOT / "docs/metrics.md").read_text()
FOREIGN = {"instance", "job", "le", "pod"}
"""Labels that Prometheus adds, and the histograms' own."""
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"], "gauge": [""]}


def documented() -> dict[str, set[str]]:
    """{series: labels} of the table in the docs."""
    found: dict[str, set[str]] = {}
    for names, labels in re.findall(r"^\| (`longshore_.*?) \| [a-z]+ \|(.*?)\|", DOCS, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            found[name] = {label.strip() for label in labels.split(",") if label.strip()}
    return found


def samples() -> dict[str, str]:
    """{name of a sample: name of its series in the docs} of all that can be shown."""
    metrics = Metrics(["q"], {"version": "1", "executor": "null", "queue": "rq"})
    found = {}
    for collector in [*metrics.registry._collector_to_names]:
        for family in getattr(collector, "describe", list)() or collector.collect():
            if not family.name.startswith("longshore_"):
                continue
            suffixes = SUFFIXES[family.type]
            series = family.name if family.type == "histogram" else family.name + suffixes[0]
            found.update({family.name + suffix: series for suffix in suffixes})
    return found


def expressions() -> list[tuple[str, str]]:
    """(where it stands, the expression), variables of Grafana replaced."""
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    triggers = yaml.safe_load((ROOT / "k8s/overlays/keda/scaledobject.yaml").read_text())["spec"]["triggers"]
    found += [("KEDA", trigger["metadata"]["query"]) for trigger in triggers]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "5m").replace("$queue", ".*")
            found.append((panel["title"], expr))
    for question, answers in re.findall(r"^\| ([^|`]+) \| (`(?:[^|]|\\\|)+) \|$", DOCS.split("## Questions")[1], re.M):
        for answer in re.findall(r"`([^`]+)`", answers):
            if "(" in answer:
                found.append((question, answer.replace("\\|", "|")))
    return found


def selectors(expression: Any) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if type(node).__name__ == "VectorSelector":
            found.append(node)
        return True

    promql_parser.walk(expression, visit)
    return found


def test_the_docs_name_every_series_and_no_other() -> None:
    assert set(documented()) == set(samples().values())


def test_the_docs_name_the_labels_that_the_code_gives() -> None:
    metrics = Metrics(["q"], {"version": "1", "executor": "null", "queue": "rq"})
    given = {f"longshore_{name}": set(labels) for name, (_, _, *labels) in MEASURES.items()}
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, (Counter, Gauge, Histogram)):
            given[collector._name] = set(collector._labelnames)
    [[build]] = [family.samples for family in metrics.registry.collect() if family.name == "longshore_build"]
    given["longshore_build_info"] = set(build.labels)
    assert {name: labels for name, labels in documented().items() if labels != given[name.removesuffix("_total")]} == {}


def test_there_are_enough_expressions() -> None:
    assert len(expressions()) > 60
    assert {place for place, _ in expressions()} >= {"LongshoreDown", "Queue wait", "versions in use"}


@pytest.mark.parametrize("part", ["alerts", "dashboard and docs"])
def test_every_expression_can_be_answered(part: str) -> None:
    known, labels, names = samples(), documented(), {rule["alert"] for rule in ALERTS}
    for place, text in expressions():
        if (place in names) != (part == "alerts"):
            continue
        found = selectors(promql_parser.parse(text))
        assert found or "vector(" in text, (place, text)
        for selector in found:
            if selector.name.startswith("process_"):
                continue
            assert selector.name in known, (place, selector.name)
            used = {matcher.name for matcher in selector.matchers.matchers}
            assert used <= labels[known[selector.name]] | FOREIGN, (place, selector.name, used)


def test_a_wrong_expression_would_be_found() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("sum by (queue (longshore_jobs)")
    assert [selector.name for selector in selectors(promql_parser.parse("rate(nope_total[5m]) / x"))] == [
        "nope_total",
        "x",
    ]


def test_each_alert_says_what_to_do() -> None:
    told = re.findall(r"^### (Longshore\w+)$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(rule["alert"] for rule in ALERTS)
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    shown = {name for name in documented() if re.search(rf"\b{name}", asked)}
    hidden = {"longshore_queue_running", "longshore_queue_up", "longshore_executor_up", "longshore_pods"}
    hidden |= {"longshore_api_request_seconds_total", "longshore_phase_transitions_total", "longshore_log_lines_total"}
    assert set(documented()) - shown == hidden | {"longshore_watch_up"}
