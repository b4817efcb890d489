"""`longshore check`: the preview of a job, the findings about queues and directories, the command itself."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import rq
import yaml

from consumer.check import check_setup, preview, sound
from consumer.findings import Finding, Level
from consumer.queues import open_queue
from consumer.settings import load_settings
from enqueue import Job
from enqueue.errors import UsageError
from support.fake_faktory import FakeFaktory
from support.redis_server import RedisServer

JOB = {
    "image": "alpine:3.20",
    "commands": ["echo hunter2-secret", "deploy"],
    "env": {"PLAIN": "shown"},
    "variables": [{"name": "T", "value": "hunter2-secret", "sensitive": True}, {"name": "U", "value": "open"}],
    "files": [{"path": "a.txt", "contents": "file-contents"}],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def longshore(*args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "enqueue.cli", "check", *args],
        input=stdin, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_pod_is_shown_without_its_secrets() -> None:
    done = longshore("-f", "-", stdin=json.dumps(JOB))
    assert done.returncode == 0, done.stderr
    pod, secret = yaml.safe_load_all(done.stdout)
    assert (pod["kind"], secret["kind"]) == ("Pod", "Secret")
    assert pod["spec"]["containers"][0]["image"] == "alpine:3.20"
    assert set(secret["data"].values()) == {"***"}
    assert "shown" in done.stdout
    for hidden in ("hunter2-secret", "file-contents"):
        assert hidden not in done.stdout + done.stderr


def test_a_sensitive_value_is_hidden_wherever_the_job_repeats_it() -> None:
    given = {name: value for name, value in JOB.items() if name not in ("commands", "files")}
    job = Job.load(given | {"entrypoint": ["login"], "args": ["--token=hunter2-secret"]})
    for executor in ("kubernetes", "process"):
        shown = json.dumps(preview(job, load_settings(executor=executor)).plain())
        assert "hunter2-secret" not in shown
        assert "--token=***" in shown


@pytest.mark.parametrize("executor", ["kubernetes", "docker", "process"])
@pytest.mark.parametrize(
    "secret", ["pa$sword-1", "two words", "$", "{\"key\": 'a$b'}", "first line\nsecond line", "q7"]
)
def test_no_form_of_a_sensitive_value_is_shown(secret: str, executor: str) -> None:
    forms = {
        "plain": secret,
        "base64": base64.b64encode(f"user:{secret}".encode()).decode(),
        "JSON": json.dumps(secret),
        "shell": shlex.quote(secret),
        "URL": quote(secret, safe=""),
    }
    job = Job.load(
        {
            "image": "alpine:3.20",
            "entrypoint": ["login", *(f"--{form}={text}" for form, text in forms.items() if len(secret) > 5)],
            "args": [f"--token={secret}"],
            "env": {"AGAIN": f"<{secret}>"},
            "variables": [{"name": "T", "value": secret, "sensitive": True}],
        }
    )
    shown = preview(job, load_settings(executor=executor)).plain()
    texts = list(strings(shown))
    assert shown["refused"] == ()
    assert "--token=***" in texts
    for text in forms.values() if len(secret) > 5 else [secret]:
        assert not [found for found in texts if text in found or text.replace("$", "$$") in found]


def test_a_secret_is_hidden_in_names_and_in_what_is_said_of_a_refusal() -> None:
    given = JOB | {"annotations": {"hunter2-secret/key": "a", "kind": "b"}, "labels": {"c": "hunter2-secret"}}
    shown = preview(Job.load(given), load_settings(executor="kubernetes")).plain()
    assert "hunter2-secret" not in json.dumps(shown)
    metadata = shown["objects"][0]["metadata"]
    assert (metadata["annotations"]["***/key"], metadata["labels"]["c"]) == ("a", "***")
    found = preview(Job.load(JOB | {"service_account": "hunter2-secret"}), load_settings(executor="kubernetes"))
    assert found.refused[0].startswith("service_account: *** isn't allowed")


def strings(value: Any) -> Iterator[str]:
    """All texts in there, keys too."""
    if isinstance(value, str):
        yield value
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if not isinstance(value, str) else ():
        if isinstance(inner, (str, dict, list, tuple)):
            yield from strings(inner)


def test_a_process_is_shown_as_it_would_run() -> None:
    done = longshore("-f", "-", "--executor", "process", "--json", stdin=json.dumps(JOB))
    shown = json.loads(done.stdout)["process"]
    assert shown["command"] == ["/bin/sh", "-e", "script.sh"]
    assert shown["scripts"]["script.sh"] == "echo ***\ndeploy"
    assert shown["environment"] == {"PLAIN": "shown", "T": "***", "U": "open"}


@pytest.mark.parametrize(
    ("executor", "fields", "says"),
    [
        ("kubernetes", {"service_account": "root"}, "service_account: root"),
        ("kubernetes", {"secrets": [{"name": "A", "secret": "s", "key": "k"}]}, "secrets[0].secret: s"),
        ("process", {"resources": {"limits": {"cpu": "1"}}}, "resources: the process executor"),
    ],
)
def test_what_policy_refuses_is_said(executor: str, fields: dict[str, Any], says: str) -> None:
    refused = preview(Job.load(JOB | fields), load_settings(executor=executor))
    assert refused.plain()["refused"][0].startswith(says)
    assert refused.objects == ()


def test_a_refused_job_is_told_apart_from_a_wrong_file() -> None:
    done = longshore("-f", "-", stdin=json.dumps(JOB | {"service_account": "root"}))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("longshore: the job would be refused: service_account: root")
    assert longshore("-f", "-", stdin='{"comands": []}').returncode == 64


@pytest.mark.parametrize(
    "args",
    [("-f", "/none"), ("--queue-url", "http://x"), ("--executor", "dokcer"), ("--nonsense",), ("--queues", "")],
)
def test_bad_usage(args: tuple[str, ...]) -> None:
    done = longshore(*args)
    assert done.returncode == 64, done.stdout
    assert "Traceback" not in done.stderr


def test_a_sound_set_up(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).config_set("appendonly", "yes")
    done = longshore("--json", LONGSHORE_QUEUE_URL=redis_url)
    said = json.loads(done.stdout)
    assert (done.returncode, said["sound"]) == (0, True), said
    assert {row["area"] for row in said["findings"]} == {"settings", "queue", "process"}
    done = longshore(LONGSHORE_QUEUE_URL=redis_url)
    assert done.stdout.rstrip().endswith("all is sound")


async def test_a_queue_that_isnt_there_is_a_problem_and_its_password_isnt_shown() -> None:
    found = await problems(queue_url="redis://user:hunter2@127.0.0.1:1/0")
    assert "127.0.0.1:1" in found[0].text
    assert "hunter2" not in str(found)
    found = await problems(queue_url="faktory://:hunter2@127.0.0.1:1", no_records=True)
    assert "127.0.0.1:1" in found[0].text
    assert "hunter2" not in str(found)


async def problems(**settings: Any) -> list[Finding]:
    found = [f for f in await check_setup(load_settings(**settings)) if f.level is Level.PROBLEM]
    assert all(finding.fix for finding in found)
    return found


async def test_a_redis_that_may_throw_jobs_away() -> None:
    server = RedisServer()
    server.start()
    try:
        url = server.fresh_url()
        client = redis.Redis.from_url(url)
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert await problems(queue_url=url) == []
        client.config_set("maxmemory", "100mb")
        [found] = await problems(queue_url=url)
        assert "maxmemory-policy is allkeys-lru" in found.text
        assert found.fix == "CONFIG SET maxmemory-policy noeviction"
    finally:
        server.close()


async def test_a_stock_worker_on_our_queue(redis_url: str, redis_client: redis.Redis) -> None:
    worker = rq.SimpleWorker(["shared"], connection=redis_client, name="stock")
    worker.register_birth()
    [found] = await problems(queue_url=redis_url, queues="other,shared")
    assert "'stock' listens on 'shared'" in found.text
    assert await problems(queue_url=redis_url, queues="other") == []


async def test_a_place_for_records_that_rq_has_itself(redis_url: str) -> None:
    settings = load_settings(queue_url=redis_url, records_url=redis_url)
    [found] = await problems(queue_url=redis_url, records_url=redis_url)
    assert found.text.startswith("records_url: RQ keeps its Records")
    with pytest.raises(UsageError, match="records_url: RQ keeps its Records"):
        await open_queue(settings)


async def test_a_suspended_rq_is_a_warning(redis_url: str, redis_client: redis.Redis) -> None:
    rq.suspension.suspend(redis_client)
    found = await check_setup(load_settings(queue_url=redis_url))
    assert [f.fix for f in found if "suspended" in f.text] == ["rq resume"]
    assert sound(found)


async def test_faktory_wants_records_or_a_plain_no(redis_url: str) -> None:
    async with FakeFaktory() as faktory:
        [found] = await problems(queue_url=faktory.url)
        assert found.text.startswith("records_url: ")
        assert await problems(queue_url=faktory.url, no_records=True) == []
        assert await problems(queue_url=faktory.url, records_url=redis_url) == []
        [found] = await problems(queue_url=faktory.url, no_records=True, queues="a b")
        assert "a b" in found.text


async def test_a_directory_that_cant_be_made(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [found] = await problems(queue_url=redis_url, process={"directory": str(tmp_path / "file" / "x")})
    assert found.area == "process"
    assert not (tmp_path / "y").exists()
    assert await problems(queue_url=redis_url, process={"directory": str(tmp_path / "y" / "z")}) == []
    assert not (tmp_path / "y").exists()


async def test_a_folder_for_logs_that_cant_be_written_to(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for used in ({"logs": {"sinks": ["file"]}}, {"outputs": {"store": "file"}}):
        [found] = await problems(queue_url=redis_url, files={"directory": str(tmp_path / "file" / "x")}, **used)
        assert (found.area, found.text.split(":")[0]) == ("stores", "files.directory")
    assert (
        await problems(queue_url=redis_url, files={"directory": str(tmp_path / "file" / "x")}) == []
    )  # nobody uses it
    assert (
        await problems(queue_url=redis_url, files={"directory": str(tmp_path / "y")}, outputs={"store": "file"}) == []
    )
    assert not (tmp_path / "y").exists()


def test_a_template_that_breaks_the_profile_is_told_as_a_refusal() -> None:
    settings = load_settings(executor="kubernetes", kubernetes={"template": {"spec": {"hostNetwork": True}}})
    [refusal] = preview(Job.load(JOB), settings).refused
    assert "hostNetwork" in refusal


@pytest.mark.parametrize(("images", "warned"), [((), True), (("alpine:*",), False)])
async def test_an_open_image_policy_is_worth_a_word(images: tuple[str, ...], warned: bool, redis_url: str) -> None:
    kubernetes = {"allowed_images": images, "kubeconfig": "/none"}
    found = await check_setup(load_settings(queue_url=redis_url, executor="kubernetes", kubernetes=kubernetes))
    assert any("any image" in f.text for f in found if f.level is Level.WARNING) is warned


async def test_job_types_are_tried_against_executor_and_policy(redis_url: str, tmp_path: Path) -> None:
    types = {
        "good": {"image": "ghcr.io/my/app:1", "python": True},
        "bad": {"image": "docker.io/other:1", "commands": ["true"], "schema": {"required": ["x"]}},
        "open": {"image": "ghcr.io/my/app:1", "python": True, "function": "a.b", "unpickle": True},
    }
    policy = {"allowed_images": ["ghcr.io/my/*"], "namespace": "jobs", "kubeconfig": str(tmp_path / "none")}
    settings = load_settings(queue_url=redis_url, executor="kubernetes", kubernetes=policy, job_types=types)
    good, bad, unpickles = [finding for finding in await check_setup(settings) if finding.area == "types"]
    assert (good.level, good.text) == (Level.GOOD, "good: function good in ghcr.io/my/app:1")
    assert bad.level is Level.PROBLEM
    assert "bad: would be refused: image: docker.io/library/other:1 isn't allowed" in bad.text
    assert unpickles.level is Level.WARNING
    settings = load_settings(queue_url=redis_url, executor="process", job_types={"a": {"commands": ["true"]}})
    (found,) = [finding for finding in await check_setup(settings) if finding.area == "types"]
    assert found.text == "a: command in this host"


async def test_what_a_switched_on_feature_lacks_is_named(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package, and the file with the keys."""
    monkeypatch.setattr("consumer.check._is_there", lambda module: not module.startswith("opentelemetry"))
    keys = {"seal_keys": "/nowhere/seal.keys"}
    found = await check_setup(load_settings(queue_url=redis_url, executor="null", tracing=True, jobs=keys))
    texts = [finding.text for finding in found if finding.level is Level.PROBLEM]
    assert any(text.startswith("tracing: the package opentelemetry isn't there") for text in texts)
    assert any(text.startswith("jobs.seal_keys: /nowhere/seal.keys can't be read") for text in texts)
