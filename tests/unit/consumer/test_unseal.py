"""Sealed variables: opened when their job starts, by whoever has the key, and by nobody else."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.errors import SetupError, Unrunnable
from consumer.job_types import JobType, typed_job
from consumer.model import Claim
from consumer.unseal import Keys, UnsealedJob
from enqueue.cli import app
from enqueue.errors import InvalidJob, UsageError
from enqueue.job import Job
from enqueue.job_parts import Variable
from enqueue.record import Reason
from enqueue.seal import new_key
from enqueue.wire.call import Call
from support.logs import claim

JOB = Job(
    commands=["true"],
    variables=[Variable(name="TOKEN", value="hunter-22 é", sensitive=True), Variable(name="PLAIN", value="p")],
)


def keys_of(path: Path, *privates: str) -> Keys:
    path.write_text("# comment\n\n" + "".join(f"{private}\n" for private in privates))
    keys = Keys(path)
    keys.load()
    return keys


def holding(job: Job) -> Claim:
    return replace(claim(), job=job)


def test_only_the_owner_reads_it_and_the_digest_is_that_of_the_payload(tmp_path: Path) -> None:
    private, public = new_key()
    sent = Job.load(JOB.seal(public).payload())
    assert "hunter-22" not in str(sent.payload())
    assert sent.variables[1] == JOB.variables[1]
    assert sent.seal(public) == sent
    opened, unfit = keys_of(tmp_path / "keys", private).open(holding(sent))
    assert unfit is None
    assert isinstance(opened.job, UnsealedJob)
    assert opened.job.variables == JOB.variables
    assert opened.job.digest() == sent.digest()
    assert opened.job.sensitive_values() == ("hunter-22 é",)


def test_a_job_without_sealed_variables_is_left_alone() -> None:
    whole = holding(JOB)
    assert Keys(None).open(whole) == (whole, None)
    assert Keys(None).open(replace(whole, job=None))[1] is None


def test_the_operators_own_variables_may_be_sealed(tmp_path: Path) -> None:
    private, public = new_key()
    type = JobType(commands=JOB.commands, variables=JOB.seal(public).variables)
    job = typed_job(Call("t", "name"), "t", type)
    opened, _ = keys_of(tmp_path / "keys", private).open(holding(job))
    assert opened.job is not None
    assert opened.job.variables == JOB.variables
    assert opened.job.digest() == job.digest()


def test_keys_are_rotated_without_a_restart(tmp_path: Path) -> None:
    (old, old_public), (new, new_public) = new_key(), new_key()
    keys = keys_of(tmp_path / "keys", old)
    assert keys.open(holding(JOB.seal(old_public)))[1] is None
    (tmp_path / "keys").write_text(f"{new}\n{old}\n")
    assert keys.open(holding(JOB.seal(new_public)))[1] is None
    assert keys.open(holding(JOB.seal(old_public)))[1] is None


def refusal(keys: Keys, job: Job) -> str:
    _, unfit = keys.open(holding(job))
    assert isinstance(unfit, Unrunnable)
    assert unfit.reason is Reason.SEALED
    return str(unfit)


def test_what_cant_be_opened_says_why(tmp_path: Path) -> None:
    (private, public), (_, other) = new_key(), new_key()
    keys, job = keys_of(tmp_path / "keys", private), JOB.seal(public)
    name = job.variables[0].sealed
    assert "TOKEN is sealed for the key" in (told := refusal(keys, JOB.seal(other)))
    assert f"this consumer has {name}" in told
    assert "this consumer has none (jobs.seal_keys)" in refusal(Keys(None), job)
    raw = bytearray(base64.b64decode(job.variables[0].value))
    raw[40] ^= 1
    for value in (base64.b64encode(bytes(raw)).decode(), "AAAA", "no base64!"):
        broken = job.variables[0].model_copy(update={"value": value})
        assert "TOKEN doesn't open" in refusal(keys, job.model_copy(update={"variables": (broken,)}))


def test_a_file_of_keys_that_cant_be_used(tmp_path: Path) -> None:
    _, public = new_key()
    for text, told in (
        (public, "line 3: this is a public key"),
        ("lskey1_x", "line 3: this is no private"),
        ("", "no key"),
    ):
        with pytest.raises(SetupError, match=told) as raised:
            keys_of(tmp_path / "keys", text)
        assert "lskey1_x" not in str(raised.value)
    with pytest.raises(SetupError, match="No such file"):
        Keys(tmp_path / "none").load()


def test_without_pynacl_both_sides_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private, public = new_key()
    sent = JOB.seal(public)
    monkeypatch.setitem(sys.modules, "nacl.public", None)
    with pytest.raises(UsageError, match=r"longshore\[seal\]"):
        JOB.seal(public)
    with pytest.raises(SetupError, match=r"longshore\[seal\]"):
        keys_of(tmp_path / "keys", private)
    assert "longshore[seal]" in refusal(Keys(tmp_path / "keys"), sent)


def test_bad_keys_and_fields() -> None:
    private, _ = new_key()
    with pytest.raises(UsageError, match="private key, where a public key") as raised:
        JOB.seal(private)
    assert private not in str(raised.value)
    with pytest.raises(InvalidJob, match="sensitive: true"):
        Job.load({"commands": ["x"], "variables": [{"name": "A", "value": "eA==", "sealed": "0" * 16}]})


def test_the_commands(tmp_path: Path) -> None:
    run, file, job = CliRunner(), tmp_path / "keys", tmp_path / "job.json"
    made = run.invoke(app, ["keygen", str(file)])
    assert made.exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="--add"):
        run.invoke(app, ["keygen", str(file)], catch_exceptions=False)
    assert run.invoke(app, ["keygen", "--add", str(file)]).exit_code == 0
    job.write_text('{"commands": ["x"], "variables": [{"name": "A", "value": "hunter-22", "sensitive": true}]}')
    sealed = run.invoke(app, ["seal", "-f", str(job), "--key", made.stdout.strip()])
    assert "hunter-22" not in sealed.stdout
    keys = Keys(file)
    keys.load()
    job.write_text(sealed.stdout)
    from enqueue.files import load_job

    opened, _ = keys.open(holding(load_job(str(job))))
    assert opened.job is not None
    assert opened.job.variables[0].value == "hunter-22"
