"""What a Plan becomes on an engine, and what an engine's words mean. Pure functions alone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import SetupError, Unrunnable
from consumer.executors.docker.archive import MOST_READ, Entry, end_of_file, packed
from consumer.executors.docker.container import Containers, adopted, build, refusals
from consumer.executors.docker.engine import EngineError
from consumer.executors.docker.images import credentials
from consumer.executors.docker.sweep import found_in
from consumer.executors.docker.told import Told
from consumer.executors.docker.verdict import State, exit_of, hopeless, not_started, refused, state_of
from consumer.model import AttemptKey, Plan
from consumer.outcome_file import CAP, OutcomeFile
from consumer.settings import Docker
from enqueue.job import Job
from enqueue.record import Reason


def plan_of(source: str = "", **fields: Any) -> Plan:
    job = Job.load({"image": "busybox"} | fields)
    return Plan("id", "queue", 1, "me", job, timeout=60, start_timeout=30, grace=10, source=source)


def built(settings: Docker | None = None, entrypoint: tuple[str, ...] = (), **fields: Any) -> Containers:
    return build(plan_of(**fields), settings or Docker(), entrypoint)


def laid_down(step: Any) -> dict[str, tarfile.TarInfo]:
    found = {}
    for root, archive in step.puts:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            found |= {f"{root.rstrip('/')}/{member.name}".rstrip("/."): member for member in tar}
    return found


SECRET = {"name": "TOKEN", "value": "hunt'er22", "sensitive": True}


def test_nothing_that_is_secret_stands_in_the_request() -> None:
    made = built(
        commands=["login --with hunt'er22"],
        variables=[SECRET],
        files=[{"path": "deep/key", "contents": "of-a-file", "mode": "0600"}],
        init={"commands": ["true"]},
    )
    assert made.init is not None
    for step in (made.main, made.init):
        text = json.dumps(step.body)
        assert "er22" not in text
        assert "of-a-file" not in text
        assert "er22" not in repr(step)
    names = laid_down(made.main)
    assert (names["/run/longshore/main.env"].mode, names["/run/longshore/main.env"].uid) == (0o400, 65532)


def test_restricted_is_the_default() -> None:
    body = built(commands=["true"]).main.body
    host = body["HostConfig"]
    assert body["User"] == "65532:65532"
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (2**30, 2**30, 1024)
    assert "Privileged" not in host


@pytest.mark.parametrize(("profile", "user", "privileged"), [("baseline", None, None), ("privileged", "0:0", True)])
def test_looser_profiles(profile: Any, user: str | None, privileged: bool | None) -> None:
    made = built(Docker(profile=profile), commands=["true"], files=[{"path": "run", "contents": "", "mode": "0700"}])
    assert (made.main.body.get("User"), made.main.body["HostConfig"].get("Privileged")) == (user, privileged)
    assert laid_down(made.main)["/workspace/run"].mode == 0o755  # nobody knows the image's user


def test_a_command_without_a_shell_is_left_alone_unless_it_has_secrets() -> None:
    plain = built(entrypoint=("/entry",), args=["a b"]).main.body
    assert ("Entrypoint" in plain, plain["Cmd"]) == (False, ["a b"])
    hidden = built(entrypoint=("/entry",), args=["a b"], variables=[SECRET]).main.body
    assert (hidden["Entrypoint"][0], hidden["Cmd"]) == ("/bin/sh", ["/entry", "a b"])
    shown = built(Docker(secrets="environment"), args=["a b"], variables=[SECRET]).main.body
    assert "TOKEN=hunt'er22" in shown["Env"]


def test_what_lies_in_a_shared_volume_is_laid_down_once() -> None:
    made = built(
        commands=["true"],
        init={"commands": ["true"], "image": "alpine"},
        files=[{"path": "a/b", "contents": "1"}, {"path": "/etc/c", "contents": "2"}],
    )
    assert made.init is not None
    assert [mount["Target"] for mount in made.main.body["HostConfig"]["Mounts"]] == [
        "/workspace",
        "/home/longshore",
        "/tmp",
    ]
    assert made.init.body["HostConfig"]["VolumesFrom"] == [made.main.name]
    assert {"/workspace", "/workspace/a", "/workspace/a/b", "/etc/c"} <= set(laid_down(made.init))
    assert set(laid_down(made.main)) & {"/workspace", "/workspace/a/b", "/etc/c", "/etc"} == {"/etc/c"}


def test_read_only_jobs_write_to_volumes() -> None:
    made = built(Docker(read_only=True), commands=["true"], files=[{"path": "a", "contents": "1"}])
    assert made.main.body["HostConfig"]["ReadonlyRootfs"]
    assert {root for root, _ in made.main.puts} == {"/workspace", "/home/longshore", "/tmp", "/run/longshore"}
    texts = refusals(plan_of(commands=["true"], files=[{"path": "/etc/x", "contents": ""}]), Docker(read_only=True))
    assert "files[0].path" in texts[0][1]


@pytest.mark.parametrize(
    ("settings", "fields", "says"),
    [
        ({}, {"service_account": "x"}, "service_account: the docker executor has no such thing"),
        ({}, {"resources": {"limits": {"nvidia.com/gpu": "1"}}}, "resources: nvidia.com/gpu"),
        ({"limits_max": {"memory": "1Gi"}}, {"resources": {"limits": {"memory": "2Gi"}}}, "resources.limits.memory"),
        ({"allowed_images": ("alpine",)}, {}, "image: docker.io/library/busybox:latest isn't allowed"),
        ({"labels": {"team": "a"}}, {"labels": {"team": "b"}}, "labels.team"),
        ({}, {"image": None}, "image: is required"),
    ],
)
def test_refusals_name_the_field(settings: dict[str, Any], fields: dict[str, Any], says: str) -> None:
    with pytest.raises(Unrunnable, match=says.replace("[", r"\[")):
        built(Docker(**settings), **({"commands": ["true"]} | fields))


def test_two_stores_on_one_engine_have_names_of_their_own() -> None:
    one, other = (build(plan_of(source, commands=["true"]), Docker()).main for source in ("a", "b"))
    assert one.name != other.name


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="limits: memory: 1Gi is more than 512Mi"):
        Docker(limits_max={"memory": "512Mi"})


async def chunks(*parts: bytes) -> Any:
    for part in parts:
        yield part


def test_nothing_follows_an_archives_end() -> None:
    archive = packed([Entry("/run/x", 0o600, 1, b"x")], "/run")
    assert len(archive) == 4 * tarfile.BLOCKSIZE  # head, contents, two empty blocks
    with tarfile.open(fileobj=io.BytesIO(archive)) as read:
        assert read.getnames() == ["x"]


async def test_the_end_of_an_outcome_file_is_read() -> None:
    archive = packed([Entry("/run/x", 0o600, 1, b"x" * 10 + b"y" * CAP)], "/run")
    assert await end_of_file(chunks(archive[:700], archive[700:])) == (b"y" * CAP, True)
    assert await end_of_file(chunks(b"x" * (MOST_READ + 1))) == (b"", True)
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as tar:
        member = tarfile.TarInfo("outcome")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert await end_of_file(chunks(link.getvalue())) == (b"", False)


def test_states() -> None:
    made = state_of({"Id": "x", "State": {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 0}})
    assert (made.fresh, made.begun, made.over) == (True, False, False)
    ended = state_of(
        {
            "HostConfig": {"Memory": 64 * 2**20},
            "State": {
                "Status": "exited",
                "ExitCode": 137,
                "OOMKilled": True,
                "StartedAt": "2026-01-01T00:00:00.123456789Z",
                "FinishedAt": "2026-01-01T00:00:01Z",
            },
        }
    )
    assert (ended.over, ended.ended_at) == (True, 1767225601.0)
    killed = exit_of(ended, Told())
    assert (killed.reason, "more memory than its limit of 64Mi" in (killed.message or "")) == (
        Reason.OUT_OF_MEMORY,
        True,
    )


@pytest.mark.parametrize(
    ("code", "signal", "message"), [(0, None, None), (3, None, None), (143, 15, "killed by SIGTERM (exit code 143)")]
)
def test_exit_codes(code: int, signal: int | None, message: str | None) -> None:
    exit = exit_of(State("x", "n", "exited", code, started_at=1.0, ended_at=2.0), Told(OutcomeFile((("a", "b"),))))
    assert (exit.code, exit.signal, exit.message, exit.reason) == (code, signal, message, None)
    assert exit.variables == (("a", "b"),)


def test_an_engines_words() -> None:
    missing = EngineError(400, 'OCI runtime create failed: exec: "x": executable file not found in $PATH: unknown')
    assert (found := not_started(missing, "main")) is not None
    assert found.reason is Reason.START_ERROR
    assert (found := not_started(missing, "init")) is not None
    assert found.reason is Reason.INIT_FAILED
    assert not_started(EngineError(500, "no space left on device"), "main") is None
    unknown = EngineError(400, "unable to find user x: no matching entries in passwd file")
    assert (found := not_started(unknown, "main")) is not None
    assert found.reason is Reason.CONFIG_ERROR
    assert hopeless(EngineError(404, "manifest for x:y not found: manifest unknown"))
    assert not hopeless(EngineError(500, "Get https://r/v2/: dial tcp: lookup r: no such host"))
    assert isinstance(refused(EngineError(400, "invalid reference")), Unrunnable)
    assert EngineError(409, 'The container name "/x" is already in use').taken


def test_credentials_by_registry(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {"auths": {"ghcr.io": {"auth": "bWU6c2VjcmV0"}, "https://index.docker.io/v1/": {"identitytoken": "t"}}}
        )
    )
    assert credentials(config, "ghcr.io/a/b") == {"username": "me", "password": "secret", "serveraddress": "ghcr.io"}
    assert credentials(config, "busybox") == {"identitytoken": "t", "serveraddress": "docker.io"}
    assert credentials(config, "quay.io/x/y") is None
    config.write_text("[]")
    with pytest.raises(SetupError, match="registry_config"):
        credentials(config, "busybox")


def test_only_containers_of_our_own_store_are_swept() -> None:
    plan = plan_of("ours", commands=["true"], init={"commands": ["true"]})
    made = build(plan, Docker())
    assert made.init is not None
    listed = [
        {"Id": step.name, "Names": [f"/{step.name}"], "State": "exited", "Labels": step.body["Labels"]}
        for step in (made.main, made.init)
    ]
    found = found_in([*listed, {"Id": "x", "Names": ["/x"], "Labels": {}}], "ours")
    assert [one.name for one in found] == [made.init.name, made.main.name]
    assert {one.key for one in found} == {AttemptKey("id", "queue", 1)}
    assert found_in(listed, "theirs") == []


def test_containers_that_are_there_are_adopted_whatever_is_allowed_now() -> None:
    wide, narrow = Docker(image="busybox"), Docker(allowed_images=["ghcr.io/**"])
    plan = plan_of(image=None, init={"commands": ["true"]}, commands=["true"])
    made, found = build(plan, wide), adopted(plan, narrow)
    assert made.init is not None
    assert found.init is not None
    assert (found.main.name, found.main.outcome) == (made.main.name, made.main.outcome)
    assert found.init.name == made.init.name
    with pytest.raises(Unrunnable, match="is required"):
        build(plan, narrow)
