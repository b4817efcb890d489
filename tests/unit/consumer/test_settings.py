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


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"FAKTORY_URL": "tcp://:pw@f:7419"}, "tcp://:pw@f:7419"),
        ({"FAKTORY_PROVIDER": "MY_URL", "MY_URL": "tcp://mine", "FAKTORY_URL": "tcp://other"}, "tcp://mine"),
        ({"LONGSHORE_QUEUE_URL": "redis://r", "FAKTORY_URL": "tcp://f"}, "redis://r"),
        ({"LONGSHORE_QUEUE_URL": "redis://r", "FAKTORY_PROVIDER": "UNSET"}, "redis://r"),
    ],
)
def test_the_queues_url_is_found_as_faktorys_clients_find_it(
    environment: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FAKTORY_URL", "FAKTORY_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings().queue_url == url


@pytest.mark.parametrize(("provider", "words"), [("tcp://:s3cret@f", "must be the name"), ("UNSET_NAME", "UNSET_NAME")])
def test_a_provider_that_leads_nowhere_is_named(provider: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKTORY_PROVIDER", provider)
    with pytest.raises(UsageError, match=words) as error:
        load_settings()
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("queues", "words"),
    [("a=5,b", "'b' has no weight"), ("a=0,b=1", "'a=0': a weight is"), ("a,a", "'a' is named twice")],
)
def test_queues_by_weight(queues: str, words: str) -> None:
    assert load_settings(queues="a=5,b=1").order.weights == (5, 1)
    with pytest.raises(UsageError, match=words):
        load_settings(queues=queues)
