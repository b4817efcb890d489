from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enqueue.errors import InvalidJob
from enqueue.images import parse_image
from enqueue.job import Job, reservation
from enqueue.job_parts import Variable

GOOD = {"image": "alpine:3.20", "commands": ["echo hi"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"imge": "x"}, "unknown field 'imge': did you mean 'image'?"),
        ({"commands": "echo"}, "commands: must be a list, not text"),
        ({"commands": []}, "commands: is required and must not be empty"),
        ({"commands": ["  "]}, "commands: must hold at least one command"),
        ({"commands": [1]}, "commands[0]: must be text, not a number"),
        ({"commands": ["a\0b"]}, "commands[0]: must not contain a NUL"),
        ({"entrypoint": ["x"]}, "commands: can't stand beside entrypoint or args"),
        ({"image": "Up/Per:1"}, "image: has upper-case letters"),
        ({"image": "a b"}, "image: can't be parsed"),
        ({"image": ""}, "image: is empty"),
        ({"env": {"PORT": 80}}, "env.PORT: must be text, not a number; put it in quotes"),
        ({"env": {"1A": "x"}}, "must be a name of letters"),
        ({"env": {"LD_PRELOAD": "x"}}, "is reserved"),
        ({"variables": [{"name": "A"}]}, "variables[0].value: is required"),
        ({"variables": [{"name": "A", "value": "x", "scope": "both"}]}, "variables[0].scope: input should be"),
        ({"variables": [{"name": "A", "value": "x", "sensitiv": True}]}, "variables[0]: unknown field 'sensitiv'"),
        ({"env": {"A": "1"}, "variables": [{"name": "A", "value": "x"}]}, "variables: 'A' is given twice"),
        ({"files": [{"path": "../x", "contents": ""}]}, "files[0].path: must be a plain path"),
        ({"files": [{"path": "x", "contents": "", "mode": "9"}]}, "files[0].mode: must be octal"),
        ({"files": [{"path": "x", "contents": ""}, {"path": "x", "contents": ""}]}, "files: 'x' is given twice"),
        ({"timeout": 0}, "timeout: input should be greater than 0"),
        ({"timeout": "10"}, "timeout: must be a number, not text"),
        ({"timeout": True}, "timeout: must be a number, not true/false"),
        ({"timeout": float("nan")}, "timeout: must be a finite number"),
        ({"retries": -1}, "retries: input should be greater than or equal to 0"),
        ({"resources": {"limits": {"memory": "lots"}}}, "resources.limits.memory: must be a Kubernetes quantity"),
        ({"resources": {"limits": {"gpu": "1"}}}, "resources.limits: unknown field 'gpu'"),
        ({"resources": {"limits": {"cpus": "1"}}}, "resources.limits: unknown field 'cpus': did you mean 'cpu'?"),
        ({"resources": {"limits": {"a.b/c": "x"}}}, "resources.limits.a.b/c: must be a Kubernetes quantity"),
        ({"resources": {"limits": {"../c": "1"}}}, "resources.limits: '../c' can't be the name of a resource"),
        ({"resources": {"limits": {"cpu": "9" * 40}}}, "resources.limits.cpu: must be a Kubernetes quantity"),
        ({"grace": -1}, "grace: "),
        ({"grace": float("inf")}, "grace: "),
        ({"image_pull_policy": "Never"}, "image_pull_policy: "),
        ({"node_selector": {"a b": "c"}}, "node_selector.a b"),
        ({"tolerations": [{}]}, "tolerations[0].key: is required"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "value: says nothing with"),
        ({"tolerations": [{"key": "a", "seconds": 1}]}, "seconds: needs effect NoExecute"),
        ({"runtime_class": "A"}, "runtime_class: must be a Kubernetes name"),
        ({"resources": {"limit": {}}}, "resources: unknown field 'limit': did you mean 'limits'?"),
        ({"labels": {"longshore.dev/job": "x"}}, "has a reserved prefix"),
        ({"labels": {"a": "b c"}}, "labels.a: must be a Kubernetes label value"),
        ({"shell": "sh"}, "shell: must be an absolute path"),
        ({"workdir": "/a/../b"}, "workdir: must be a plain path"),
        ({"init": {"commands": []}}, "init.commands:"),
        ({"secrets": [{"name": "A", "secret": "UP", "key": "k"}]}, "secrets[0].secret: must be a Kubernetes name"),
        ({"reply_to": "a b"}, "reply_to:"),
    ],
)
def test_bad_jobs_are_refused_with_the_field_and_the_way_out(change: dict, says: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.load({**GOOD, **change})
    assert says in str(caught.value)


@pytest.mark.parametrize("payload", [None, [], "x", 3, True, b"x"])
def test_a_payload_that_is_no_object_is_named(payload: object) -> None:
    with pytest.raises(InvalidJob, match="must be an object"):
        Job.load(payload)


def test_an_error_never_shows_the_value() -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.load({**GOOD, "variables": [{"name": "A", "value": ["hunter2"], "sensitive": True}]})
    assert "hunter2" not in str(caught.value)


def test_neither_does_pydantics_own() -> None:
    with pytest.raises(ValueError, match="can't stand beside") as caught:
        Job(commands=["x"], args=["y"], variables=[Variable(name="A", value="hunter2", sensitive=True)])
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Variable(name="A", value="hunter2", sensitive=True))


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.load({"image": "A B", "commands": [1], "timeout": -1})
    assert len(caught.value.problems) == 3


def test_opslevels_words_are_read_as_ours() -> None:
    job = Job.load({**GOOD, "variables": [{"key": "A", "value": "1"}], "files": [{"name": "a.sh", "contents": "x"}]})
    assert job.variables[0].name == "A"
    assert job.files[0].path == "a.sh"
    assert job.payload()["variables"] == [{"name": "A", "value": "1"}]


def test_a_payload_reads_back_as_the_same_job() -> None:
    job = Job.load(
        {
            **GOOD,
            "variables": [{"name": "T", "value": "s3cret", "sensitive": True, "scope": "init"}],
            "files": [
                {"path": "a/b", "contents": "x", "mode": "0755"},
                {"path": "/etc/c", "contents": "", "mode": 0o600},
            ],
            "init": {"commands": ["git clone x ."]},
            "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}},
            "timeout": 10,
            "retention": {"success": 3600},
        }
    )
    again = Job.load(json.loads(json.dumps(job.payload())))
    assert again == job
    assert again.digest() == job.digest()
    assert [f.permissions for f in job.files] == [0o755, 0o600]
    assert job.payload()["resources"] == {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}}


def test_a_description_shows_no_secret() -> None:
    job = Job(commands=["curl -H s3cret-token x"], variables=[Variable(name="T", value="s3cret-token", sensitive=True)])
    assert "s3cret" not in job.describe()
    assert "s3cret" not in str(job.as_rq()["description"])


def test_a_reservation_outlives_the_job_within_faktorys_bounds() -> None:
    assert reservation(None) == 86_400
    assert reservation(10) == 910
    assert reservation(10**6) == 86_400
    assert Job(commands=["x"]).as_faktory()["retry"] == -1
    assert Job(commands=["x"], retries=3).as_faktory()["retry"] == 3


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("org/app", "docker.io/org/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:1/none:1", "127.0.0.1:1/none:1"),
        ("ghcr.io/a/b/c@sha256:" + "a" * 64, "ghcr.io/a/b/c@sha256:" + "a" * 64),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
    ],
)
def test_image_references_are_parsed_not_guessed(text: str, parsed: str) -> None:
    assert str(parse_image(text)) == parsed


@pytest.mark.parametrize(
    "text", ["", "a:b:c", "a@b", "-a", "a/", "/a", "a//b", "a@sha256:12", "ä", "a" * 1025, "a:\n", "Ab/c"]
)
def test_bad_image_references_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is empty|can't be parsed|characters long|upper-case|digest"):
        parse_image(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*Job.model_fields, "x"]), _JSON, max_size=6))
def test_any_object_is_a_job_or_a_plain_refusal(payload: dict) -> None:
    problem = ""
    try:
        job = Job.load(payload)
    except InvalidJob as error:
        problem = str(error)
        job = None
    assert (job is None) == bool(problem)
    assert "Error" not in problem
    assert job is None or Job.load(job.payload()) == job
