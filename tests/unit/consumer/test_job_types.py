from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consumer.job_types import JobTypes
from consumer.settings import load_settings
from consumer.typed import TypedJob
from enqueue.errors import InvalidJob, UsageError
from enqueue.wire.call import Call

SCHEMA = {
    "type": "object",
    "properties": {
        "source": {"type": "string"},
        "width": {"type": "integer", "maximum": 4096},
        "options": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"sizes": {"items": {"type": "number"}}},
        },
    },
    "required": ["source", "width"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def types(only: bool = False, **named: Any) -> JobTypes:
    return JobTypes(load_settings(job_types={k.replace("__", "."): v for k, v in named.items()}).job_types, only=only)


def call(name: str, *args: Any, **kwargs: Any) -> Call:
    return Call(name, "function", args, kwargs)


def made(known: JobTypes, name: str, *args: Any, **kwargs: Any) -> TypedJob:
    job = known.job(call(name, *args, **kwargs))
    assert isinstance(job, TypedJob)
    return job


def document(job: TypedJob) -> Any:
    return json.loads(next(handed.contents for handed in job.handed if handed.variable == "LONGSHORE_ARGS"))


def refusal(known: JobTypes, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(InvalidJob) as caught:
        known.job(call(*args, **kwargs))
    return str(caught.value)


def test_a_call_becomes_the_types_job_with_its_arguments_as_file_and_environment() -> None:
    known = types(
        app__resize={
            "image": "app:1",
            "commands": ["resize"],
            "env": {"REGION": "eu"},
            "parameters": ["source", "width"],
            "schema": SCHEMA,
            "timeout": 60,
            "retries": 2,
            "resources": {"limits": {"memory": "1Gi"}},
            "profile": "baseline",
        }
    )
    job = made(known, "app.resize", "a.png", width=3, options={"sizes": [1, 2.5]})
    assert (job.image, job.commands, job.timeout, job.retries, job.profile) == ("app:1", ("resize",), 60, 2, "baseline")
    assert job.env == {"REGION": "eu", "LONGSHORE_ARG_SOURCE": "a.png", "LONGSHORE_ARG_WIDTH": "3"}
    assert document(job) == {
        "v": 1,
        "name": "app.resize",
        "args": ["a.png"],
        "kwargs": {"width": 3, "options": {"sizes": [1, 2.5]}},
    }
    assert not job.returns


def test_variables_are_plain_scalars_in_full() -> None:
    known = types(a={"commands": ["true"]})
    given = {
        "i": 10**20, "f": 0.1, "yes": True, "none": None, "list": [1], "text": "a b", "nul": "a\0b", "half": "\ud800",
        "long": "x" * 40_000, "no-name": "x", "3": "x",
    }  # fmt: skip
    job = made(known, "a", given)
    assert job.env == {
        "LONGSHORE_ARG_I": "100000000000000000000",
        "LONGSHORE_ARG_F": "0.1",
        "LONGSHORE_ARG_YES": "true",
        "LONGSHORE_ARG_TEXT": "a b",
    }
    assert document(job)["args"] == [given]
    assert "Width: would be $LONGSHORE_ARG_WIDTH, as 'width' is" in refusal(known, "a", width=1, Width=2)


def test_sensitive_arguments_go_the_way_of_sensitive_variables() -> None:
    known = types(a={"commands": ["true"], "sensitive": ["token", "more"]})
    job = made(known, "a", token="s3cret-token", more={"deep": ["other-secret", 12345]}, plain="x")
    assert job.env == {"LONGSHORE_ARG_PLAIN": "x"}
    assert [(v.name, v.value, v.sensitive) for v in job.variables] == [("LONGSHORE_ARG_TOKEN", "s3cret-token", True)]
    assert set(job.sensitive_values()) == {"s3cret-token", "other-secret", "12345"}
    assert "s3cret" not in repr(job.variables)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({}, "a: source: is required; width: is required"),
        ({"source": 1, "width": 2}, "a: source: must be of type string, not a number"),
        ({"source": "s3cret", "width": 5000}, "a: width: breaks maximum: 4096"),
        ({"source": "x", "width": 1, "wide": 1}, "a: unknown argument 'wide'"),
        (
            {"source": "x", "width": 1, "options": {"sizes": [1, "s3cret"]}},
            "a: options.sizes[1]: must be of type number",
        ),
        ({"source": "x", "width": 1, "options": {"s": 1}}, "a: options: unknown argument 's'"),
    ],
)
def test_arguments_that_break_the_schema_are_named_by_place_without_their_value(kwargs: Any, says: str) -> None:
    text = refusal(types(a={"commands": ["true"], "schema": SCHEMA}), "a", **kwargs)
    assert says in text
    assert "s3cret" not in text


def test_positional_arguments_have_the_names_in_parameters() -> None:
    known = types(a={"commands": ["true"], "parameters": ["x", "*rest"], "schema": {"required": ["x"]}})
    assert made(known, "a", 1, 2, 3).env == {"LONGSHORE_ARG_X": "1"}
    assert "x: is required" in refusal(known, "a")
    known = types(a={"commands": ["true"], "parameters": ["x", "y"]})
    assert "args[2]: is one too many; the type takes x, y" in refusal(known, "a", 1, 2, 3)
    assert "args[0]: 'x' is given by name as well" in refusal(known, "a", 1, x=1)
    known = types(a={"commands": ["true"], "schema": SCHEMA})
    assert "args[0]: has no name" in refusal(known, "a", "x", 1)
    assert "source: is required" in refusal(known, "a", {"width": 1})


def test_names_that_are_no_types_are_refused_with_the_way_out() -> None:
    known = types(app__tasks__resize={"commands": ["true"]}, app__jobs__STAR={"commands": ["true"]})
    text = refusal(known, "app.tasks.rezise")
    assert "function: 'app.tasks.rezise' is no job type here: did you mean 'app.tasks.resize'?" in text
    assert "`job_types`" in text
    assert "known here: app.jobs.STAR, app.tasks.resize, longshore.job" in refusal(known, "zzz")
    assert known.job(call("longshore.job", {"commands": ["true"]})).commands == ("true",)
    only = types(only=True, a={"commands": ["true"]})
    assert "'longshore.job' isn't run here" in refusal(only, "longshore.job", {"commands": ["true"], "image": "evil"})
    assert "longshore.job" not in refusal(only, "zzz").split("known here")[1]


def test_a_pattern_stands_for_one_part_of_a_path() -> None:
    known = JobTypes(
        load_settings(
            job_types={"app.*": {"commands": ["one"]}, "app.*.b": {"commands": ["two"]}, "app.x": {"commands": ["x"]}}
        ).job_types
    )
    assert made(known, "app.x").commands == ("x",)
    assert made(known, "app.y").commands == ("one",)
    assert made(known, "app.y.b").commands == ("two",)
    for name in ("app.", "app.os.system", "xapp.y", "app.y\n"):
        assert known.find(name) is None


def test_values_that_are_no_json_are_refused_with_their_place() -> None:
    known = types(a={"commands": ["true"]})
    assert "a: args[0].x[1]: bytes isn't JSON, and a command is given JSON" in refusal(
        known, "a", {"x": [1, b"s3cret"]}
    )
    assert "kwargs.x: nan isn't JSON" in refusal(known, "a", x=float("nan"))
    assert document(made(known, "a", (1, 2)))["args"] == [[1, 2]]
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in refusal(known, "a", deep)


def test_the_digest_tells_calls_and_nothing_of_the_type() -> None:
    first, second = types(a={"commands": ["true"]}), types(a={"commands": ["false"], "image": "b"})
    assert made(first, "a", 1, x="s").digest() == made(second, "a", 1, x="s").digest()
    assert made(first, "a", 1).digest() != made(first, "a", 2).digest()
    assert made(first, "a", x=1, y=2).digest() == made(first, "a", y=2, x=1).digest()


@pytest.mark.parametrize(
    ("type", "says"),
    [
        ({"comands": ["true"]}, "job_types.a.b: unknown field 'comands': did you mean 'commands'?"),
        ({"commands": ["true"], "shema": {}}, "did you mean 'schema'?"),
        ({}, "job_types.a.b: commands: is required"),
        ({"commands": ["true"], "python": True}, "python: can't stand beside commands"),
        ({"commands": ["true"], "function": "a.b"}, "function: is for types with `python: true`"),
        ({"python": True, "unpickle": True, "schema": {}}, "unpickle: can't stand beside schema"),
        ({"python": True, "function": "b"}, "job_types.a.b.function: must be a function's path"),
        ({"commands": ["true"], "schema": {"type": "objekt"}}, "schema: type: isn't JSON Schema"),
        (
            {"commands": ["true"], "schema": {"$ref": "http://127.0.0.1:1/x"}},
            "$ref: 'http://127.0.0.1:1/x' isn't found",
        ),
        ({"commands": ["true"], "schema": {"$ref": "#/$defs/x"}}, "$ref: '#/$defs/x' isn't found"),
        ({"commands": ["true"], "parameters": "x"}, "parameters: must be a list of names, not text"),
        ({"commands": ["true"], "parameters": ["*x", "y"]}, "parameters: only the last one"),
        ({"commands": ["true"], "env": {"LONGSHORE_X": "1"}}, "is reserved"),
        ({"commands": ["true"], "timeout": "1"}, "timeout: must be a number, not text"),
        ({"commands": ["true"], "profile": "x"}, "profile"),
    ],
)
def test_a_wrong_type_is_refused_when_the_settings_are_read(type: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(job_types={"a.b": type})
    assert says in str(caught.value)


def test_types_come_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "longshore.yaml").write_text(
        "jobs: {types_only: true}\n"
        "job_types:\n"
        "  app.tasks.*: {image: 'app:1', python: true, resources: {limits: {memory: 2Gi}}, timeout: 600}\n"
        "  ResizeImage: {image: 'app:1', python: /opt/bin/python, function: app.tasks.resize, parameters: [source]}\n"
    )
    settings = load_settings()
    assert settings.jobs.types_only
    known = JobTypes(settings.job_types, only=True)
    job = made(known, "app.tasks.resize", 1)
    assert (job.entrypoint[0], job.timeout, job.returns) == ("python3", 600, True)
    assert document(job)["function"] == "app.tasks.resize"
    job = made(known, "ResizeImage", 1)
    assert (job.entrypoint[0], document(job)["function"]) == ("/opt/bin/python", "app.tasks.resize")
    with pytest.raises(UsageError, match=r"longshore\.job"):
        load_settings(job_types={"longshore.job": {"commands": ["true"]}})


def test_a_schema_with_references_of_its_own_works() -> None:
    schema = {"properties": {"x": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    known = types(a={"commands": ["true"], "schema": schema})
    assert "x: must be of type integer, not text" in refusal(known, "a", x="1")
    assert made(known, "a", x=1).env == {"LONGSHORE_ARG_X": "1"}
