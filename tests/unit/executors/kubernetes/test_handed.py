"""What a job type hands to its pod: files in the Secret, their paths in variables, a profile of its own."""

from __future__ import annotations

import base64
import json
from typing import Any

from consumer.executors.kubernetes.manifest import Manifest, build
from consumer.job_types import JobTypes
from consumer.model import Claim
from consumer.plan import plan_of
from consumer.settings import Jobs, Kubernetes
from consumer.settings_job_types import JobType
from enqueue.wire.call import Call


def made(type: dict[str, Any], *args: Any, **kwargs: Any) -> Manifest:
    job = JobTypes({"app.f": JobType(image="app:1", **type)}).job(Call("app.f", "function", args, kwargs))
    return build(plan_of(Claim("id", "heavy", 1, "t", job), Jobs(), "tester"), Kubernetes())


def environment(manifest: Manifest) -> dict[str, str]:
    return {v["name"]: v.get("value", "secret") for v in manifest.pod["spec"]["containers"][0]["env"]}


def test_arguments_stand_in_the_secret_and_are_mounted_read_only() -> None:
    manifest = made({"commands": ["true"], "sensitive": ["token"]}, token="s3cret-token", plain="$(HOME)")
    given = environment(manifest)
    assert given["LONGSHORE_ARGS"] == "/run/longshore/args.json"
    assert (given["LONGSHORE_ARG_TOKEN"], given["LONGSHORE_ARG_PLAIN"]) == ("secret", "$$(HOME)")
    assert "s3cret-token" not in json.dumps(manifest.pod)
    document = json.loads(base64.b64decode(manifest.secret.data["args.json"]))
    assert document["kwargs"] == {"token": "s3cret-token", "plain": "$(HOME)"}
    mounts = {m["mountPath"]: m for m in manifest.pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounts["/run/longshore/args.json"]["readOnly"]


def test_a_function_is_run_by_the_images_python() -> None:
    manifest = made({"python": True}, 1)
    container = manifest.pod["spec"]["containers"][0]
    assert container["command"][:2] == ["python3", "-c"]
    assert "LONGSHORE_CODE" in container["command"][2]
    assert environment(manifest)["LONGSHORE_CODE"] == "/run/longshore/code.py"
    compile(base64.b64decode(manifest.secret.data["code.py"]), "code.py", "exec")


def test_a_type_may_have_a_profile_of_its_own() -> None:
    for profile, root in (("restricted", True), ("baseline", None), (None, True)):
        manifest = made({"commands": ["true"], "profile": profile})
        assert manifest.pod["spec"]["securityContext"].get("runAsNonRoot") is root
