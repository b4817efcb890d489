"""OpsLevel's dialect on Faktory, pure: its job type `legacy` as a Job, and the reply jobs that its users handle.

Source: opslevel-runner (b63d6ca), `src/cmd/faktory.go` for the payload and its custom keys, `src/pkg` for the replies.
What it ignored by accident (unknown fields, values of a wrong type inside) is refused here, by name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from consumer.model import Settlement
from enqueue.closed import kind_of, nearest
from enqueue.errors import InvalidJob
from enqueue.job import Job
from enqueue.record import Reason, Status
from enqueue.wire.call import Call, Load

LEGACY = "legacy"
APPEND_LOG, REPORT_OUTCOME = "Runners::Faktory::AppendJobLog", "Runners::Faktory::ReportJobOutcome"
RUNNER_ID = "faktory"
_PREFIX = "opslevel-runner-"
_WANTS_URL = f"{_PREFIX}faktory-url"
_FIELDS = {
    "id": str,
    "image": str,
    "commands": list,
    "variables": list,
    "files": list,
    "initCommands": list,
    "initImage": str,
    "outcome": str,  # these two are the server's own
    "status": str,
}
_OUTCOMES: dict[str, str] = {
    Reason.DEADLINE: "execution_timeout",
    Reason.START_TIMEOUT: "pod_timeout",
    Reason.UNSCHEDULABLE: "pod_timeout",
    Reason.IMAGE_PULL: "pod_timeout",
}


class LegacyJob(Job, defer_build=True):
    """Made by `legacy_job` only. `queue`: where its replies go; `batch`: they belong to this batch."""

    call: str
    runner_job_id: str
    queue: str
    batch: str = ""

    def digest(self) -> str:
        """A stable hash of what the producer sent: what a found execution is compared with."""
        return self.call


def is_legacy(job: Job | None) -> bool:
    """It came as OpsLevel's job type."""
    return isinstance(job, LegacyJob)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the operator says of `legacy` jobs. `url`: given as FAKTORY_URL to those that ask; empty: to none."""

    queue: str = "app"
    url: str = ""

    def loading(self, others: Load) -> Load:
        """Makes Jobs of `legacy` calls, and leaves all others to `others`."""

        def load(call: Call) -> Job:
            return legacy_job(call, self) if call.name == LEGACY else others(call)

        return load


def legacy_job(call: Call, dialect: Dialect) -> LegacyJob:
    """The Job of a `legacy` call: its one argument, then its custom keys. Raises InvalidJob that names the field."""
    if len(call.args) != 1 or not isinstance(call.args[0], Mapping):
        raise InvalidJob("args: a legacy job has exactly one argument, an object with image and commands")
    asked, custom = _closed(call.args[0]), call.custom
    image = _typed(custom, f"{_PREFIX}image", str, asked.get("image", ""), "custom.")
    commands = [*_texts(asked, "commands"), *_texts(custom, f"{_PREFIX}commands", "custom.")]
    number = _runner_job_id(custom, asked.get("id", ""))
    batch: str = _typed(custom, "bid", str, "", "custom.")
    init = {"commands": _texts(asked, "initCommands")} | (
        {"image": asked["initImage"]} if asked.get("initImage") else {}
    )
    made = {
        "image": image or None,
        "commands": commands,
        "variables": _variables(asked, custom, number, batch, dialect),
        "files": _files(asked, custom),
        "init": init if init["commands"] else None,
        "retries": 0,
        "call": hashlib.sha256(json.dumps([call.args, custom], sort_keys=True).encode()).hexdigest(),
        "runner_job_id": number,
        "queue": dialect.queue,
        "batch": batch,
    }
    if not image:
        raise InvalidJob(f"image: is required (or custom.{_PREFIX}image)")
    loaded = LegacyJob.load({key: value for key, value in made.items() if value is not None})
    assert isinstance(loaded, LegacyJob)
    return loaded


def _closed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The argument's fields, each of its own type; null counts as not given."""
    for key in asked:
        if key not in _FIELDS:
            raise InvalidJob(f"{key[:80]}: no such field in a legacy job{nearest(key, list(_FIELDS))}")
    given = {key: value for key, value in asked.items() if value is not None}
    for key in given:
        _typed(given, key, _FIELDS[key], None)
    return given


def _typed(source: Mapping[str, Any], key: str, kind: type, default: Any, where: str = "") -> Any:
    value = source.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        word = {str: "text", list: "a list", bool: "true or false"}[kind]
        raise InvalidJob(f"{where}{key}: must be {word}, not {kind_of(value)}")
    return value


def _texts(source: Mapping[str, Any], key: str, where: str = "") -> list[str]:
    values: list[Any] = _typed(source, key, list, [], where)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidJob(f"{where}{key}[{index}]: must be text, not {kind_of(value)}")
    return values


def _objects(source: Mapping[str, Any], key: str, fields: Mapping[str, type], where: str = "") -> list[dict[str, Any]]:
    found = []
    for index, value in enumerate(_typed(source, key, list, [], where)):
        at = f"{where}{key}[{index}]"
        if not isinstance(value, Mapping):
            raise InvalidJob(f"{at}: must be an object with {', '.join(fields)}, not {kind_of(value)}")
        for name in value:
            if name not in fields:
                raise InvalidJob(f"{at}.{str(name)[:80]}: no such field{nearest(str(name), list(fields))}")
        found.append({name: _typed(value, name, kind, kind(), f"{at}.") for name, kind in fields.items()})
    return found


def _runner_job_id(custom: Mapping[str, Any], own: str) -> str:
    wanted = custom.get(f"{_PREFIX}job-id")
    if wanted is None:
        return own
    if isinstance(wanted, str):
        return wanted
    if isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
        return str(int(wanted))
    return "0"  # as OpsLevel's runner has it


def _variables(
    asked: Mapping[str, Any], custom: Mapping[str, Any], number: str, batch: str, dialect: Dialect
) -> list[dict[str, Any]]:
    """What each step sees, later ones before earlier ones of the same name, as Kubernetes has it."""
    fields = {"key": str, "value": str, "sensitive": bool}
    rows = _objects(asked, "variables", fields | {"scope": str})
    rows += _objects(custom, f"{_PREFIX}extra-vars", fields, "custom.")
    if batch:
        rows.append({"key": "FAKTORY_BATCH_ID", "value": batch, "sensitive": False})
    if _typed(custom, _WANTS_URL, bool, False, "custom."):
        if not dialect.url:
            raise InvalidJob(f"custom.{_WANTS_URL}: the operator doesn't hand out Faktory's URL (faktory.share_url)")
        rows.append({"key": "FAKTORY_URL", "value": dialect.url, "sensitive": True})
    rows.append({"key": "RUNNER_JOB_ID", "value": number, "sensitive": False})
    seen: dict[tuple[str, str], tuple[str, bool]] = {}
    for index, row in enumerate(rows):
        scope = row.get("scope") or ""
        if scope not in ("", "init", "main"):
            raise InvalidJob(f"variables[{index}].scope: must be init, main or empty, not {scope[:80]!r}")
        for step in (scope,) if scope else ("init", "main"):
            seen[row["key"], step] = (row["value"], row["sensitive"])
    made = []
    for (name, step), (value, sensitive) in seen.items():
        other = seen.get((name, "main" if step == "init" else "init"))
        if other == (value, sensitive):
            if step == "init":
                made.append({"name": name, "value": value, "sensitive": sensitive})
        else:
            made.append({"name": name, "value": value, "sensitive": sensitive, "scope": step})
    return made


def _files(asked: Mapping[str, Any], custom: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = {"name": str, "contents": str}
    rows = [*_objects(asked, "files", fields), *_objects(custom, f"{_PREFIX}files", fields, "custom.")]
    named = {row["name"]: row["contents"] for row in rows}
    return [{"path": f"/opslevel/{name}", "contents": text, "mode": "0755"} for name, text in named.items()]


# --- replies ---------------------------------------------------------------------------------------------------------


def outcome_job(settlement: Settlement, job: LegacyJob) -> dict[str, Any]:
    """The reply job with the outcome; the same one however often it is made."""
    outcome = settlement.outcome
    word = {Status.SUCCEEDED: "success", Status.CANCELLED: "canceled"}.get(outcome.status)
    said: dict[str, Any] = {
        "runnerId": RUNNER_ID,
        "runnerJobId": job.runner_job_id,
        "outcome": word or _OUTCOMES.get(outcome.reason or "", "failed"),
    }
    if outcome.variables:
        said["outcomeVariables"] = [{"key": key, "value": value} for key, value in outcome.variables.items()]
    seed = f"{settlement.claim.id}\n{settlement.claim.attempt}\n{REPORT_OUTCOME}"
    return _reply(REPORT_OUTCOME, said, seed, job)


def log_job(
    claim_id: str, attempt: int, job: LegacyJob, line: int, lines: Sequence[bytes], now: float
) -> dict[str, Any]:
    """The reply job with lines of the log (without their newlines); `line`: the first one's number."""
    at = datetime.fromtimestamp(now, UTC)
    prefix = f"{at:%Y-%m-%dT%H:%M:%SZ} [0] ".encode()
    said = {
        "runnerId": RUNNER_ID,
        "runnerJobId": job.runner_job_id,
        "sentAt": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "logChunk": [base64.b64encode(prefix + text).decode() for text in lines],
    }
    return _reply(APPEND_LOG, said, f"{claim_id}\n{attempt}\n{APPEND_LOG}\n{line}", job)


def _reply(kind: str, said: dict[str, Any], seed: str, job: LegacyJob) -> dict[str, Any]:
    made = {"jid": hashlib.sha256(seed.encode()).hexdigest()[:32], "queue": job.queue, "jobtype": kind, "args": [said]}
    return made | {"retry": 25} | ({"custom": {"bid": job.batch}} if job.batch else {})


MakeLogJob = Callable[[int, Sequence[bytes], float], dict[str, Any]]
"""Makes the job that carries lines: the first one's number, the lines, the time in seconds since the epoch."""
