"""The dev stack, the image and the manifests say what the command line and the settings know."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from consumer.settings import Settings
from consumer.settings_table import all_settings
from enqueue.cli import app

ROOT = Path(__file__).parent.parent.parent
STACK = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]


def parses(arguments: list[str]) -> None:
    """Raises for what `longshore` wouldn't accept."""
    commands = typer.main.get_command(app)
    assert arguments, "no command"
    command = commands.commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], list(arguments[1:]))


def script_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each `longshore ...` line; options in brackets and what follows a pipe left out."""
    for line in text.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?longshore ((?:(?! [|#&<>]).)+)", line)
        if found:
            yield shlex.split(found[1].replace("$$", "$"))


def test_the_stack_fits_the_compose_specification() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    problems = list(jsonschema.Draft202012Validator(schema).iter_errors(STACK))
    assert not problems, [f"{list(problem.absolute_path)}: {problem.message}" for problem in problems]
    broken = STACK | {"services": SERVICES | {"redis": SERVICES["redis"] | {"porst": []}}}
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(broken))


def test_the_services() -> None:
    consumers = {"consumer-rq", "consumer-faktory", "consumer-k3s"}
    assert set(SERVICES) == {"redis", "faktory", "rq-dashboard", "producer", "prometheus", "grafana", "k3s", *consumers}
    assert {name for name in SERVICES if "profiles" in SERVICES[name]} == {"k3s", "consumer-k3s"}
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert {port.rsplit(":", 1)[1] for port in ports} == {"6379", "7419", "7420", "9181", "9090", "3000"}
    assert all(port.startswith("127.0.0.1:") for port in ports)
    volumes, configs = set(), set()
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[needed]
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("${"):
                volumes.add(source)
        configs |= {config["source"] for config in service.get("configs", [])}
    assert (set(STACK["volumes"]), set(STACK["configs"])) == (volumes, configs)


def test_prometheus_asks_the_consumers_where_they_listen() -> None:
    config = yaml.safe_load(STACK["configs"]["prometheus"]["content"])
    (port,) = re.findall(r"LONGSHORE_METRICS_PORT=(\d+)", (ROOT / "Dockerfile").read_text())
    (targets,) = [one["targets"] for scrape in config["scrape_configs"] for one in scrape["static_configs"]]
    assert targets == [f"consumer-rq:{port}", f"consumer-faktory:{port}"]
    for name in ("grafana-datasource", "grafana-dashboards", "k3s-namespace"):
        assert yaml.safe_load(STACK["configs"][name]["content"])


@pytest.mark.parametrize("name", ["consumer-rq", "consumer-faktory", "consumer-k3s"])
def test_the_consumers_commands_are_known(name: str) -> None:
    command = SERVICES[name]["command"]
    parses(command)
    flags = {command[i][2:].replace("-", "_"): command[i + 1] for i in range(1, len(command), 2)}
    flags.pop("kubernetes_namespace", None)
    settings = Settings(**flags)
    assert settings.executor == ("kubernetes" if name == "consumer-k3s" else "docker")
    assert bool(settings.records_url) == settings.queue_url.startswith("tcp:")
    assert SERVICES[name]["read_only"]


def test_the_producers_commands_are_known() -> None:
    lines = list(script_lines(SERVICES["producer"]["command"][0]))
    assert len(lines) == 3
    for line in lines:
        parses(line)
    jobs = re.search(r"for job in (.*);", SERVICES["producer"]["command"][0])
    assert jobs is not None
    assert all((ROOT / "examples" / "jobs" / f"{job}.yaml").is_file() for job in jobs[1].split())


def test_the_image_is_small_and_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("--require-hashes -r requirements/") == text.count("pip install --no-deps --require-hashes") == 2
    assert "HEALTHCHECK" in text
    assert "USER 65532:65532" in text
    assert 'ENTRYPOINT ["longshore"]' in text
    for source in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists()


def test_the_manifests_settings_are_known() -> None:
    (deployment,) = [d for d in yaml.safe_load_all((ROOT / "k8s" / "base" / "deployment.yaml").read_text()) if d]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parses(container["args"])
    known = {setting.variable for setting in all_settings(Settings)}
    for variable in container["env"]:
        assert variable["name"] in known, variable["name"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_are_known(page: Path) -> None:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in script_lines(block):
            parses(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
