"""OpsLevel's dialect: its payloads as Jobs, and its replies byte for byte."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from consumer.model import Claim, Settlement, Verdict
from consumer.opslevel import Dialect, LegacyJob, legacy_job, log_job
from consumer.queues.faktory_words import claim_of, ending_of
from enqueue.errors import InvalidJob
from enqueue.record import Outcome, Reason, Record, Status
from enqueue.wire.call import Call, the_job
from enqueue.wire.faktory_fetched import Fetched

PAYLOAD: dict[str, Any] = {
    "id": "Z2lk",
    "image": "alpine:3.20",
    "commands": ["echo hello", "sh /opslevel/test.sh"],
    "variables": [
        {"key": "BOTH", "value": "b"},
        {"key": "CLONE", "value": "s3cret", "sensitive": True, "scope": "init"},
        {"key": "AI", "value": "k", "sensitive": True, "scope": "main"},
    ],
    "files": [{"name": "test.sh", "contents": "echo file"}],
    "initCommands": ["git clone"],
    "initImage": "alpine/git:2",
}


def load(payload: object = PAYLOAD, dialect: Dialect | None = None, **custom: Any) -> LegacyJob:
    call = Call("legacy", "jobtype", [payload], custom={key.replace("_", "-"): v for key, v in custom.items()})
    return legacy_job(call, dialect or Dialect())


def seen(job: LegacyJob, step: str) -> dict[str, str]:
    return {v.name: v.value for v in job.variables if v.scope in ("all", step)}


def test_a_payload_becomes_a_job() -> None:
    job = load()
    assert (job.image, job.commands) == ("alpine:3.20", ("echo hello", "sh /opslevel/test.sh"))
    assert job.init is not None
    assert (job.init.image, job.init.commands) == ("alpine/git:2", ("git clone",))
    assert seen(job, "init") == {"BOTH": "b", "CLONE": "s3cret", "RUNNER_JOB_ID": "Z2lk"}
    assert seen(job, "main") == {"BOTH": "b", "AI": "k", "RUNNER_JOB_ID": "Z2lk"}
    assert job.sensitive_values() == ("s3cret", "k")
    assert [(f.path, f.contents, f.permissions) for f in job.files] == [("/opslevel/test.sh", "echo file", 0o755)]
    assert job.retries == 0


def test_custom_keys_add_to_it() -> None:
    job = load(
        opslevel_runner_image="busybox:1",
        opslevel_runner_commands=["echo more"],
        opslevel_runner_extra_vars=[{"key": "BOTH", "value": "later"}, {"key": "S", "value": "x1x", "sensitive": True}],
        opslevel_runner_files=[{"name": "test.sh", "contents": "echo newer"}, {"name": "b", "contents": ""}],
        bid="b-1",
    )
    assert (job.image, job.commands[-1]) == ("busybox:1", "echo more")
    assert seen(job, "main") == {
        "BOTH": "later", "AI": "k", "S": "x1x", "FAKTORY_BATCH_ID": "b-1", "RUNNER_JOB_ID": "Z2lk"
    }  # fmt: skip
    assert {f.path: f.contents for f in job.files} == {"/opslevel/test.sh": "echo newer", "/opslevel/b": ""}
    assert "x1x" in job.sensitive_values()


@pytest.mark.parametrize(
    ("given", "number"), [("17", "17"), (17, "17"), (17.0, "17"), (True, "0"), ([], "0"), (None, "Z2lk")]
)
def test_the_job_id(given: object, number: str) -> None:
    job = load(opslevel_runner_job_id=given)
    assert job.runner_job_id == seen(job, "main")["RUNNER_JOB_ID"] == number


@pytest.mark.parametrize(
    ("change", "custom", "words"),
    [
        ({"image": 3}, {}, "image: must be text"),
        ({"image": None}, {}, "image: is required"),
        ({"initcommands": []}, {}, "initcommands: no such field in a legacy job: did you mean 'initCommands'?"),
        ({"commands": ["a", 1]}, {}, "commands[1]: must be text"),
        ({"commands": []}, {}, "commands: "),
        ({"variables": [{"key": "A", "value": 1}]}, {}, "variables[0].value: must be text"),
        ({"variables": [{"key": "A", "value": "", "scope": "x"}]}, {}, "variables[0].scope: "),
        ({"variables": [{"key": "A B", "value": ""}]}, {}, "name"),
        ({"files": [{"name": "../x", "contents": ""}]}, {}, "path"),
        ({}, {"opslevel_runner_commands": "ls"}, "custom.opslevel-runner-commands: must be a list"),
        ({}, {"opslevel_runner_files": [3]}, "custom.opslevel-runner-files[0]: must be an object"),
        (
            {},
            {"opslevel_runner_extra_vars": [{"key": "A", "value": "v", "sensitive": "yes"}]},
            "custom.opslevel-runner-extra-vars[0].sensitive: must be true or false",
        ),
        ({}, {"opslevel_runner_faktory_url": True}, "custom.opslevel-runner-faktory-url: the operator doesn't"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], custom: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob) as error:
        load(PAYLOAD | change, **custom)
    assert words in str(error.value)


def test_the_url_is_a_secret_given_on_request_only() -> None:
    dialect = Dialect(url="tcp://:pw@host:7419")
    assert "FAKTORY_URL" not in seen(load(dialect=dialect), "main")
    job = load(dialect=dialect, opslevel_runner_faktory_url=True)
    assert seen(job, "main")["FAKTORY_URL"] == "tcp://:pw@host:7419"
    assert "tcp://:pw@host:7419" in job.sensitive_values()


# --- replies


def claimed(**custom: Any) -> Claim:
    native = {"jid": "jid-12345", "jobtype": "legacy", "queue": "q", "args": [PAYLOAD], "retry": 25, "custom": custom}
    return claim_of(Fetched(native, 10), token="t", now=1.0, max_bytes=9999, load=Dialect().loading(the_job))


def told(claim: Claim, verdict: Verdict, outcome: Outcome) -> tuple[dict[str, Any], bytes, tuple[bytes, ...]]:
    record = Record(id=claim.id, queue="q", attempt=1, status=outcome.status)
    ending = ending_of(Settlement(claim, verdict, outcome, record), late=False, now=2.0)
    assert ending.before is not None
    line = ending.before.removeprefix(b"PUSH ")
    return json.loads(line), line, ending.commands


def test_the_outcome_as_its_handlers_expect_it() -> None:
    outcome = Outcome(status=Status.SUCCEEDED, exit_code=0, variables={"answer": "42", "b": "ä"})
    job, line, commands = told(claimed(), Verdict.DONE, outcome)
    assert (job["jobtype"], job["queue"], job["retry"]) == ("Runners::Faktory::ReportJobOutcome", "app", 25)
    assert "custom" not in job
    assert (
        b'"args":[{"runnerId":"faktory","runnerJobId":"Z2lk","outcome":"success",'
        b'"outcomeVariables":[{"key":"answer","value":"42"},{"key":"b","value":"\\u00e4"}]}]' in line
    )
    assert commands == (b'ACK {"jid":"jid-12345"}\r\n',)
    assert told(claimed(), Verdict.DONE, outcome)[0]["jid"] == job["jid"]


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        (Status.FAILED, Reason.EXIT_CODE, "failed"),
        (Status.FAILED, Reason.DEADLINE, "execution_timeout"),
        (Status.FAILED, Reason.IMAGE_PULL, "pod_timeout"),
        (Status.FAILED, Reason.START_TIMEOUT, "pod_timeout"),
        (Status.CANCELLED, Reason.REQUESTED, "canceled"),
    ],
)
def test_a_failure_is_told_by_its_reply_and_acked(status: Status, reason: Reason, word: str) -> None:
    verdict = Verdict.DONE if status is Status.CANCELLED else Verdict.BURY
    job, line, commands = told(claimed(bid="b-1"), verdict, Outcome(status=status, reason=reason))
    assert f'"args":[{{"runnerId":"faktory","runnerJobId":"Z2lk","outcome":"{word}"}}]'.encode() in line
    assert job["custom"] == {"bid": "b-1"}
    assert commands == (b'ACK {"jid":"jid-12345"}\r\n',)


def test_a_payload_that_cant_be_read_is_failed_as_ever() -> None:
    native = {"jid": "jid-12345", "jobtype": "legacy", "queue": "q", "args": [3], "retry": 25}
    claim = claim_of(Fetched(native, 10), token="t", now=1.0, max_bytes=9999, load=Dialect().loading(the_job))
    assert claim.problem is not None
    assert claim.problem.startswith("args: a legacy job")
    outcome = Outcome(status=Status.FAILED, reason=Reason.INVALID_JOB)
    record = Record(id=claim.id, queue="q", attempt=1, status=outcome.status)
    ending = ending_of(Settlement(claim, Verdict.BURY, outcome, record), late=False, now=2.0)
    assert ending.before is None
    assert ending.commands[0].startswith(b"FAIL")


def test_log_lines_as_its_handlers_expect_them() -> None:
    job = load(bid="b-1")
    made = log_job("jid-12345", 1, job, 0, [b"one", b"\xfftwo"], 1_700_000_000.25)
    assert (made["jobtype"], made["queue"], made["custom"]) == ("Runners::Faktory::AppendJobLog", "app", {"bid": "b-1"})
    (said,) = made["args"]
    assert list(said) == ["runnerId", "runnerJobId", "sentAt", "logChunk"]
    assert (said["runnerId"], said["runnerJobId"]) == ("faktory", "Z2lk")
    assert said["sentAt"] == "2023-11-14T22:13:20.250000Z"
    assert [base64.b64decode(line) for line in said["logChunk"]] == [
        b"2023-11-14T22:13:20Z [0] one",
        b"2023-11-14T22:13:20Z [0] \xfftwo",
    ]
    assert made["jid"] != log_job("jid-12345", 1, job, 2, [b"x"], 1_700_000_001.0)["jid"]
