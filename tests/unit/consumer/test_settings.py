from __future__ import annotations

from pathlib import Path

import pytest

from consumer.settings import load_settings
from enqueue.errors import UsageError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_win_over_the_environment_and_that_over_the_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "longshore.yaml").write_text(
        "queue_url: redis://file\nconcurrency: 1\nqueues: [a]\nkubernetes: {namespace: file, image: alpine}\n"
    )
    monkeypatch.setenv("LONGSHORE_CONCURRENCY", "2")
    monkeypatch.setenv("LONGSHORE_QUEUES", "x, y")
    monkeypatch.setenv("LONGSHORE_KUBERNETES_NAMESPACE", "environment")
    monkeypatch.setenv("LONGSHORE_JOBS_START_TIMEOUT", "7")
    settings = load_settings(concurrency=3, kubernetes={"namespace": "flag"}, metrics_port=None)
    assert (settings.queue_url, settings.concurrency, settings.queues) == ("redis://file", 3, ("x", "y"))
    assert (settings.kubernetes.namespace, settings.kubernetes.image) == ("flag", "alpine")
    assert settings.jobs.start_timeout == 7


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"queues": ","}, "queues: name at least one queue"),
        ({"queues": ""}, "queues: name at least one queue"),
        ({"kubernetes": {"namspace": "x"}}, "did you mean 'namespace'"),
        ({"executer": "x"}, "did you mean 'executor'"),
        ({"name": "a b"}, "name: must be a word"),
        ({"jobs": {"grace": -1}}, "jobs.grace"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(**flags)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["- a list", "a: [", "\t", "a: &a [x]\nb: *a", "a: 1\na: 2"])
def test_a_file_that_is_no_mapping_is_a_usage_error(elsewhere: Path, text: str) -> None:
    (elsewhere / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"x\.yaml"):
        load_settings(elsewhere / "x.yaml")
