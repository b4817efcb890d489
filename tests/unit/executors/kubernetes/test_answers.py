"""What is read of the API's objects is all that a slim copy needs, whatever else they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.executors.kubernetes import answers
from consumer.executors.kubernetes.status import Pod, pod_of, slim

CAPTURES = sorted((Path(__file__).parents[3] / "data" / "pod-statuses").glob("*.json"))


def test_of_real_pods_nothing_is_missing() -> None:
    seen = 0
    for capture in CAPTURES:
        for state in json.loads(capture.read_text())["states"]:
            line = json.dumps(state).encode()
            assert slim(answers.event(line)["object"]) == slim(state["object"]), capture.name
            assert pod_of(json.dumps(state["object"]).encode()) == slim(state["object"])
            seen += 1
    assert seen > 100


def test_what_isnt_needed_is_passed_over() -> None:
    container = {"name": "main", "env": [{"name": "A"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    item = {"metadata": {"name": "p", "managedFields": [{"x": 1}]}, "status": None}
    item["spec"] = {"containers": [container], "volumes": [{}]}
    line = json.dumps({"kind": "PodList", "metadata": {"continue": "c"}, "items": [item]}).encode()
    limited = {"name": "main", "resources": {"limits": {"memory": "1Gi"}}}
    kept = {"metadata": {"name": "p"}, "spec": {"containers": [limited]}, "status": None}
    assert answers.page(line) == {"metadata": {"continue": "c"}, "items": [kept]}


@pytest.mark.parametrize("odd", [{"spec": []}, {"status": "Failure", "code": 410}, {"metadata": {"labels": {"a": 1}}}])
def test_an_odd_type_is_no_reason_to_see_nothing(odd: dict[str, object]) -> None:
    line = json.dumps({"object": odd, "type": "ERROR"}).encode()
    assert answers.event(line) == {"type": "ERROR", "object": odd}


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", b"{", b"null", b'"x"'])
def test_what_is_no_object_is_an_error(answer: bytes) -> None:
    for read in (answers.whole, answers.pod, answers.page, answers.event):
        with pytest.raises(ValueError):
            read(answer)
    if not answer.startswith(b"{"):
        with pytest.raises(ValueError):
            answers.nothing(answer)


def test_an_empty_answer_is_an_empty_object() -> None:
    assert answers.whole(b"") == {}
    assert answers.nothing(b"") is None
    assert pod_of(b"") == Pod("", "")
