"""The generated schemas are those of the code, and they accept and refuse as the models do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from enqueue import schema
from enqueue.errors import InvalidJob
from enqueue.files import load_job
from enqueue.job import Job
from enqueue.record import Attempt, Outcome, Reason, Record, Status, Times, Where

ROOT = Path(__file__).parent.parent.parent.parent
GOOD: dict[str, Any] = {"image": "alpine:3.20", "commands": ["echo hi"]}
FULL: dict[str, Any] = {
    **GOOD,
    "shell": "/bin/bash -o pipefail",
    "workdir": "/workspace",
    "env": {"A": "1"},
    "variables": [{"name": "T", "value": "x", "sensitive": True, "scope": "main"}, {"key": "U", "value": "y"}],
    "secrets": [{"name": "S", "secret": "db", "key": "password"}],
    "files": [{"path": "a", "contents": "b", "mode": "0755"}, {"name": "c", "contents": "d", "mode": 420}],
    "init": {"commands": ["true"]},
    "resources": {"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}, "limits": {"vendor.example/gpu": "1"}},
    "timeout": 10,
    "start_timeout": 2.5,
    "count_output": True,
    "retries": 3,
    "infrastructure_retries": 1,
    "labels": {"team": "a"},
    "annotations": {"example.com/note": "b"},
    "grace": 5,
    "service_account": "jobs",
    "image_pull_policy": "Always",
    "image_pull_secrets": ["registry"],
    "limit": {"key": "db", "concurrency": 3},
    "node_selector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "seconds": 60}],
    "runtime_class": "gvisor",
    "priority_class": "low",
    "retention": {"success": 60, "failure": 60},
    "unmasked_variables": ["minted"],
    "parent": "job-1",
    "tags": ["customer:7", "nightly"],
    "reply_to": "answers",
    "logs": ["record", "file"],
    "outputs": {"include": ["*.xml"], "max_bytes": 1000},
}
JOB = jsonschema.Draft202012Validator(schema.job_schema())
RECORD = jsonschema.Draft202012Validator(schema.record_schema())


def test_the_files_in_docs_are_those_of_the_code() -> None:
    assert schema.main(["--check"]) == 0


def test_a_stale_file_is_named_and_then_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--docs", str(tmp_path)]) == 0
    assert schema.main(["--docs", str(tmp_path), "--check"]) == 0
    capsys.readouterr()
    (tmp_path / "job.schema.json").write_text("{}")
    (tmp_path / "reasons.md").unlink()
    assert schema.main(["--docs", str(tmp_path), "--check"]) == 1
    told = capsys.readouterr().out
    assert "job.schema.json" in told
    assert "reasons.md" in told
    assert "record.schema.json" not in told
    assert schema.main(["--docs", str(tmp_path)]) == 0
    assert schema.main(["--docs", str(tmp_path), "--check"]) == 0


def test_the_schemas_are_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.job_schema())
    jsonschema.Draft202012Validator.check_schema(schema.record_schema())


def test_every_field_of_a_job_is_in_the_schema() -> None:
    assert set(schema.job_schema()["properties"]) == set(Job.model_fields)
    assert set(FULL) | {"entrypoint", "args"} == set(Job.model_fields)


@pytest.mark.parametrize("payload", [GOOD, FULL, {"entrypoint": ["python3", "-c", "1"]}, {"image": "a", "args": ["b"]}])
def test_what_the_model_takes_and_writes_is_valid(payload: dict[str, Any]) -> None:
    JOB.validate(payload)
    JOB.validate(Job.load(payload).payload())


@pytest.mark.parametrize(
    "change",
    [
        {"imge": "x"},
        {"commands": "echo"},
        {"commands": []},
        {"commands": [1]},
        {"commands": None},
        {"entrypoint": ["x"]},
        {"args": ["x"]},
        {"env": {"A": 1}},
        {"env": []},
        {"variables": [{"name": "A"}]},
        {"variables": [{"value": "A"}]},
        {"variables": [{"name": "A", "key": "A", "value": "x"}]},
        {"variables": [{"name": "A", "value": "x", "scope": "both"}]},
        {"variables": [{"name": "A", "value": "x", "sensitive": "yes"}]},
        {"files": [{"path": "a"}]},
        {"timeout": 0},
        {"timeout": "10"},
        {"timeout": True},
        {"timeout": 2_592_001},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": 1001},
        {"resources": {"limit": {}}},
        {"resources": {"limits": {"gpu": "1"}}},
        {"tolerations": [{"operator": "Exists"}]},
        {"resources": {"limits": {"ephemeral-storage": "1Gi", "ephemeral_storage": "1Gi"}}},
        {"retention": {"success": 5}},
        {"init": {}},
        {"init": {"commands": []}},
        {"reply_to": "a b"},
    ],
)
def test_what_the_model_refuses_isnt_valid(change: dict[str, Any]) -> None:
    payload = {**GOOD, **change}
    with pytest.raises(InvalidJob):
        Job.load(payload)
    assert not JOB.is_valid(payload)


@pytest.mark.parametrize("payload", [{}, {"image": "a"}, [], "x", None])
def test_no_job_at_all_isnt_valid(payload: object) -> None:
    assert not JOB.is_valid(payload)


@pytest.mark.parametrize(
    "record",
    [
        Record(id="1"),
        Record(
            id="1",
            status=Status.FAILED,
            reason=Reason.EXIT_CODE.value,
            exit_code=3,
            variables={"a": "b"},
            times=Times(queued="2026-01-01T00:00:00Z"),
            where=Where(pod="p"),
            attempts=(Attempt(attempt=1, status=Status.FAILED),),
        ),
    ],
)
def test_a_stored_record_and_its_outcome_are_valid(record: Record) -> None:
    stored = json.loads(record.dumps())
    RECORD.validate(stored)
    RECORD.validate({**stored, "a_later_field": 1, "log": {"a_later_field": 1}})
    outcome = RECORD.evolve(schema={**schema.record_schema(), "$ref": "#/$defs/Outcome"})
    outcome.validate(Outcome(status=Status.SUCCEEDED).model_dump(mode="json"))
    assert not outcome.is_valid({"status": "done"})
    assert not RECORD.is_valid({**stored, "status": "done"})
    assert not RECORD.is_valid({**stored, "id": 1})


def test_every_reason_has_its_line() -> None:
    text = schema.reasons()
    assert all(f"| `{reason.value}` |" in text for reason in Reason)


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("examples/jobs/*"), *ROOT.glob("consumer/demo_jobs/*.yaml")]),
    ids=lambda path: path.name,
)
def test_job_files_are_valid(path: Path) -> None:
    import yaml

    JOB.validate(yaml.safe_load(path.read_text()))
    JOB.validate(load_job(str(path)).payload())
