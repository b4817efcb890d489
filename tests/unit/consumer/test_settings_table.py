from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import typer.main

from consumer.settings import Settings, load_settings
from consumer.settings_docs import FLAGS, settings_page
from consumer.settings_table import all_settings, problems_in
from enqueue.cli import app

KNOWN = {setting.name: setting for setting in all_settings(Settings)}


def test_each_setting_is_explained() -> None:
    assert [name for name, setting in KNOWN.items() if not setting.description] == []
    assert KNOWN["kubernetes.patience"].variable == "LONGSHORE_KUBERNETES_PATIENCE"
    assert (KNOWN["kubernetes.patience"].unit, KNOWN["logs.max_bytes"].unit) == ("s", "bytes")
    assert settings_page().count("\n| `") > len(KNOWN)


def test_the_flags_in_the_table_are_those_of_the_command() -> None:
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts} - {"--help", "--config"}
    assert options == {"--" + name.replace("_", "-").replace(".", "-") for name in FLAGS}


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "LONGSHORE_CONCURENCY",
            "3",
            "LONGSHORE_CONCURENCY: there is no such setting: did you mean 'LONGSHORE_CONCURR",
        ),
        ("LONGSHORE_KUBERNETES_NAMSPACE", "x", "did you mean 'LONGSHORE_KUBERNETES_NAMESPACE'?"),
        ("longshore_queue", "x", "LONGSHORE_QUEUE: there is no such setting: did you mean 'LONGSHORE_QUEUES'?"),
        ("LONGSHORE_QZX", "x", "docs/settings.md lists them all"),
        ("LONGSHORE_METRIC_PORT", "9100", "did you mean 'LONGSHORE_METRICS_PORT'?"),
        ("LONGSHORE_KUBERNETES_ALLOWED_IMAGES", "a/*,b/*", 'must be JSON in the environment, such as \'["a", "b"]\''),
        ("LONGSHORE_KUBERNETES_LIMITS", "s3cret", "must be JSON in the environment, such as '{"),
        ("LONGSHORE_KUBERNETES", "s3cret", "must be JSON"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_name(variable: str, value: str, says: str) -> None:
    [problem] = problems_in({variable: value, "PATH": "/bin"}, Settings)
    assert says in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    "environment",
    [
        {"LONGSHORE_KUBERNETES_ALLOWED_IMAGES": '["a/*"]', "LONGSHORE_QUEUES": "a,b", "LONGSHORE_KUBERNETES": "{}"},
        {"LONGSHORE_JOB_ID": "x", "LONGSHORE_ATTEMPT": "1", "LONGSHORE_QUEUE": "default", "LONGSHORE_ARG_A": "1"},
        {
            "LONGSHORE_SERVICE_HOST": "10.0.0.1",
            "LONGSHORE_PORT": "tcp://10.0.0.1:80",
            "LONGSHORE_PORT_80_TCP_ADDR": "1",
        },
        {"LONGSHORE_TEST_REDIS_SERVER": "/usr/bin/redis-server"},
    ],
)
def test_what_others_set_is_left_alone(environment: dict[str, str]) -> None:
    """Settings, what a job is given, what Kubernetes makes of a Service of our name, what tests use."""
    assert problems_in(environment, Settings) == []


DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["settings.md", "migration.md", "job-types.md", "policy.md"])
def test_the_settings_in_the_docs_are_settings(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    found = [textwrap.dedent(block) for _, block in blocks if not re.search(r"^ *apiVersion:", block, re.MULTILINE)]
    assert found
    for text in found:
        (tmp_path / "longshore.yaml").write_text(text)
        load_settings()
