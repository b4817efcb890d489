"""The overlays of k8s/ on a real cluster: rendered by kubectl, moved into namespaces of the test's own, applied."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parents[2] / "k8s"
FOREIGN = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
"""Kinds of controllers that a cluster may lack; their objects were checked against the published schemas by hand."""


def rendered(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would apply."""
    text = subprocess.run(
        ["kubectl", "kustomize", str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=True
    ).stdout
    return [item for item in yaml.safe_load_all(text) if item]


@dataclass(frozen=True)
class Installed:
    """An overlay in namespaces of its own."""

    admin: Path
    own: str
    jobs: str
    objects: list[dict[str, Any]]

    def find(self, kind: str, name: str = "longshore") -> dict[str, Any]:
        """An object as it was applied."""
        [found] = [o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == name]
        return found

    async def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl as the admin; raises AssertionError with what it says."""
        return await asyncio.to_thread(_kubectl, self.admin, arguments, given)

    async def token_kubeconfig(self, directory: Path) -> Path:
        """A kubeconfig of the consumer's ServiceAccount, as its pod would be that."""
        config = yaml.safe_load(self.admin.read_text())
        token = (await self.kubectl("-n", self.own, "create", "token", "longshore", "--duration=10m")).strip()
        config["users"] = [{"name": "consumer", "user": {"token": token}}]
        config["contexts"][0]["context"] |= {"user": "consumer", "namespace": "default"}
        path = directory / "kubeconfig.serviceaccount"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    def env(self, **other: str) -> dict[str, str]:
        """The container's environment as the Deployment has it; what comes from elsewhere is `other`."""
        [container] = self.find("Deployment")["spec"]["template"]["spec"]["containers"]
        plain = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        elsewhere = {entry["name"] for entry in container["env"] if "value" not in entry}
        assert elsewhere <= set(other), elsewhere
        return plain | other


async def install(admin: Path, overlay: str) -> Installed:
    """Apply it, without consumers: there is no image of ours here, and no node for them. To be removed by `remove`."""
    mark = secrets.token_hex(4)
    own, jobs = f"longshore-test-{mark}", f"longshore-test-{mark}-jobs"
    moved = []
    for item in rendered(overlay):
        if item["kind"] not in FOREIGN:
            text = json.dumps(item).replace('"longshore-jobs"', f'"{jobs}"')
            item = json.loads(text.replace('"namespace": "longshore"', f'"namespace": "{own}"'))
            if item["kind"] == "Namespace" and item["metadata"]["name"] == "longshore":
                item["metadata"]["name"] = own
            if item["kind"] == "Deployment":
                item["spec"]["replicas"] = 0
                item["spec"]["template"]["spec"]["nodeSelector"] = {"longshore.dev/none": "here"}
            moved.append(item)
    found = Installed(admin, own, jobs, moved)
    try:
        await found.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(moved))
    except BaseException:
        await remove(found)
        raise
    return found


async def remove(installed: Installed) -> None:
    """Delete its namespaces; they go in the background."""
    await installed.kubectl("delete", "namespace", installed.own, installed.jobs, "--wait=false", "--ignore-not-found")


def _kubectl(kubeconfig: Path, arguments: tuple[str, ...], given: str | None) -> str:
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(kubeconfig), *arguments], input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
