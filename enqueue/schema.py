"""`python -m enqueue.schema` writes the generated files in docs/: the schemas of Job and Record, the reason words, and
where the consumer is installed too, its settings and what `longshore audit` finds.

`--check` writes nothing and exits 1 with the names of those that are no longer those of the code.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from enqueue.closed import Closed
from enqueue.job import Job
from enqueue.record import FAULT_OF, HINTS, Fault, Outcome, Reason, Record

DOCS = Path(__file__).parent.parent / "docs"
_DIALECT = GenerateJsonSchema.schema_dialect
_REFERENCE = "#/$defs/{model}"

_NOTE_JOB = (
    "The Job: the one argument of the queue job longshore.job. A valid document may still be refused: the consumer "
    "also checks names, paths, quantities, image references and duplicates, and says which field is wrong."
)
_NOTE_RECORD = (
    "The Record, version 1: JSON in the hash field longshore of rq:job:<id> (RQ) or longshore:job:<jid> (Faktory). "
    "Fields without a value are left out. Readers must accept fields that they don't know."
)


class _Plain(GenerateJsonSchema):
    """Without a title for each field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def job_schema() -> dict[str, Any]:
    """JSON Schema of a Job as a payload or a job file."""
    schema = Job.model_json_schema(by_alias=True, mode="validation", schema_generator=_Plain, ref_template=_REFERENCE)
    definitions: dict[str, Any] = schema["$defs"]
    models: list[type[BaseModel]] = [Job, *Closed.__subclasses__()]
    for model in models:
        part = schema if model is Job else definitions.get(model.__name__)
        if part is not None:
            _accept_other_names(model, part)
    described = {"$schema": _DIALECT, "title": "Job", "description": _NOTE_JOB}
    return described | {key: value for key, value in schema.items() if key not in described} | {"anyOf": _WAYS}


def record_schema() -> dict[str, Any]:
    """JSON Schema of a Record, with that of an Outcome (the return value of an RQ job) among its definitions."""
    _, schema = models_json_schema(
        [(Record, "validation"), (Outcome, "validation")], schema_generator=_Plain, ref_template=_REFERENCE
    )
    for definition in schema["$defs"].values():
        if definition.get("type") == "object":
            definition["additionalProperties"] = True
    described = {"$schema": _DIALECT, "title": "Record", "description": _NOTE_RECORD}
    return described | {"$ref": "#/$defs/Record", "$defs": schema["$defs"]}


def reasons() -> str:
    """The catalogue of reason words."""
    lines = [
        "# Reasons",
        "",
        "The field `reason` of a Record, an Outcome and an attempt, beside the status `failed` or `cancelled`.",
        "The words are stable and meant for programs; a reader must accept one that it doesn't know.",
        "The hint stands in the field `hint`.",
        "",
        "The fault decides whether the job is tried again. The job's own: as its `retries` or the queue's policy",
        "allow. The infrastructure's: up to two more times if nothing had started (not for `start_timeout` and",
        "`unschedulable`), else as `infrastructure_retries` allows. `invalid_job`,",
        "`refused` and `sealed` are final.",
        "",
        "| reason | fault | hint |",
        "|---|---|---|",
    ]
    for reason in Reason:
        ours = reason not in (Reason.REQUESTED, Reason.DELETED)
        fault = FAULT_OF[reason] if ours else ""
        lines.append(
            f"| `{reason}` | {'infrastructure' if fault is Fault.INFRASTRUCTURE else fault} | {HINTS[reason]} |"
        )
    return "\n".join([*lines, "", "Made from the code by `python -m enqueue.schema`.", ""])


def generated() -> dict[str, str]:
    """The names of the generated files and what they hold."""
    files = {
        "job.schema.json": json.dumps(job_schema(), indent=2) + "\n",
        "record.schema.json": json.dumps(record_schema(), indent=2) + "\n",
        "reasons.md": reasons(),
    }
    if importlib.util.find_spec("consumer") is not None:
        files["settings.md"] = importlib.import_module("consumer.settings_docs").settings_page()
        files["audit.md"] = importlib.import_module("consumer.audit_kinds").audit_page()
    return files


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m enqueue.schema", description="Generated files in docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="the folder; docs/ of this clone")
    options = parser.parse_args(arguments)
    files = generated()
    stale = [name for name, text in files.items() if _text(options.docs / name) != text]
    if options.check:
        for name in stale:
            print(f"{options.docs / name} is stale: python -m enqueue.schema")
        return 1 if stale else 0
    for name in stale:
        (options.docs / name).write_text(files[name], encoding="utf-8")
        print(f"wrote {options.docs / name}")
    return 0


_FULL: dict[str, Any] = {"minItems": 1}
_EMPTY: dict[str, Any] = {"maxItems": 0}
_WAYS: list[dict[str, Any]] = [
    {"required": ["commands"], "properties": {"commands": _FULL, "entrypoint": _EMPTY, "args": _EMPTY}},
    {"required": ["entrypoint"], "properties": {"entrypoint": _FULL, "commands": _EMPTY}},
    {"required": ["args"], "properties": {"args": _FULL, "commands": _EMPTY}},
]
"""Either a script, or a command without a shell."""


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _accept_other_names(model: type[BaseModel], schema: dict[str, Any]) -> None:
    """A field that may be written in two ways gets both, of which one may be used at a time."""
    rules: list[dict[str, Any]] = []
    for name, field in model.model_fields.items():
        choices = field.validation_alias
        spellings = [str(c) for c in choices.choices] if isinstance(choices, AliasChoices) else [field.alias or name]
        if model.model_config.get("populate_by_name") and name not in spellings:
            spellings.append(name)
        if len(spellings) == 1:
            continue
        first, other = spellings
        schema["properties"][other] = {**schema["properties"][first], "description": f"The same as {first}."}
        if field.is_required():
            schema["required"].remove(first)
            rules.append({"oneOf": [{"required": [first]}, {"required": [other]}]})
        else:
            rules.append({"not": {"required": [first, other]}})
    if rules:
        schema["allOf"] = rules


if __name__ == "__main__":
    raise SystemExit(main())
