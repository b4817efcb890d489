"""Plan -> pod and Secret."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Unrunnable
from consumer.executors.kubernetes.manifest import Manifest, build, literal, refusals
from consumer.executors.names import job_key, label_of, pod_name
from consumer.settings import Kubernetes
from enqueue.quantity import amount
from enqueue.record import Reason
from support.kubernetes import plan_of

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def made(settings: Kubernetes | None = None, **fields: Any) -> Manifest:
    return build(plan_of(**fields), settings or Kubernetes())


def restricted(pod: dict[str, Any]) -> list[str]:
    """What Pod Security `restricted` would object to."""
    spec = pod["spec"]
    wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(name)]
    security = spec["securityContext"]
    wrong += ["root"] if not security.get("runAsNonRoot") or security.get("runAsUser") == 0 else []
    wrong += ["seccomp"] if security.get("seccompProfile", {}).get("type") != "RuntimeDefault" else []
    wrong += [next(iter(set(v) - {"name"})) for v in spec["volumes"] if not set(v) <= {"name", "emptyDir", "secret"}]
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        own = container["securityContext"]
        wrong += ["escalation"] if own.get("allowPrivilegeEscalation") is not False else []
        wrong += ["capabilities"] if own.get("capabilities") != {"drop": ["ALL"]} else []
        wrong += ["privileged"] if own.get("privileged") else []
        wrong += ["hostPort"] if container.get("ports") else []
    return wrong


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
names = st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True).filter(
    lambda n: not n.startswith(("LD_", "LONGSHORE_", "KUBERNETES_"))
)


@given(
    job_id=st.text(min_size=1, max_size=60),
    env=st.dictionaries(names, text, max_size=3),
    secret=st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=12, max_size=40),
    commands=st.lists(text, max_size=3),
    init=st.booleans(),
)
def test_any_job_passes_restricted_and_shows_no_secret(
    job_id: str, env: dict[str, str], secret: str, commands: list[str], init: bool
) -> None:
    secret = "~" + secret
    fields: dict[str, Any] = {
        "commands": [*commands, f"echo {secret}"],
        "env": env,
        "variables": [{"name": "zz_secret", "value": secret, "sensitive": True}],
        "files": [{"path": "a/b", "contents": secret}],
    }
    if init:
        fields["init"] = {"commands": ["true"]}
    plan = plan_of(job_id, **fields)
    manifest = build(plan, Kubernetes())
    assert restricted(manifest.pod) == []
    assert secret not in json.dumps(manifest.pod, ensure_ascii=False)
    assert base64.b64encode(secret.encode()).decode() not in json.dumps(manifest.pod)
    assert re.fullmatch(r"[a-z0-9-]{1,63}", manifest.name)
    assert all(LABEL.fullmatch(value) for value in manifest.pod["metadata"]["labels"].values())
    assert manifest == build(plan, Kubernetes())


def test_names_are_functions_of_queue_id_and_attempt() -> None:
    assert pod_name("q", "1", 1) == pod_name("q", "1", 1)
    assert len({pod_name("q", "1", 1), pod_name("q", "1", 2), pod_name("q", "2", 1), pod_name("q1", "", 1)}) == 4
    assert job_key("a", "b") != job_key("ab", "")
    assert label_of("host-1") == "host-1"
    assert LABEL.fullmatch(label_of("x" * 200))
    assert LABEL.fullmatch(label_of("ä b"))


def test_the_plain_pod() -> None:
    pod = made(commands=["one", "two"], env={"A": "1"}).pod
    [main] = pod["spec"]["containers"]
    assert main["command"] == ["/bin/sh", "-e", "-c", "one\ntwo"]
    assert {"name": "A", "value": "1"} in main["env"]
    assert main["workingDir"] == "/workspace"
    assert {m["mountPath"] for m in main["volumeMounts"]} == {"/workspace", "/home/longshore", "/tmp"}
    assert main["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi", "ephemeral-storage": "0"},
        "limits": {"memory": "1Gi", "ephemeral-storage": "10Gi"},
    }
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Never", 1)
    assert spec["activeDeadlineSeconds"] == 60 + 30 + 1 + 120
    notes = pod["metadata"]["annotations"]
    assert notes["longshore.dev/job-digest"] == plan_of(commands=["one", "two"], env={"A": "1"}).job.digest()
    assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


@pytest.mark.parametrize("value", ["$(A)", "$$", "$", "a$(B)$$(C)", "$(", "x$"])
def test_dollars_reach_the_process_as_they_are(value: str) -> None:
    def expand(given: str) -> str:  # what the kubelet does with a value in which no $(NAME) is known
        return re.sub(r"\$(\$|\([^)]*\)|)", lambda m: "$" if m[1] == "$" else "?" if m[1] else "$", given)

    assert expand(literal(value)) == value


def test_entrypoint_args_and_shell() -> None:
    [main] = made(entrypoint=["/app", "$x"], args=["a"]).pod["spec"]["containers"]
    assert (main["command"], main["args"]) == (["/app", "$$x"], ["a"])
    assert "command" not in made(args=["a"]).pod["spec"]["containers"][0]
    [main] = made(commands=["x"], shell="/bin/bash -o pipefail").pod["spec"]["containers"]
    assert main["command"][:4] == ["/bin/bash", "-o", "pipefail", "-e"]


def test_scopes_of_variables() -> None:
    variables = [
        {"name": "X", "value": "for-init", "scope": "init"},
        {"name": "X", "value": "for-main", "scope": "main", "sensitive": True},
        {"name": "HOME", "value": "/elsewhere"},
    ]
    manifest = made(variables=variables, init={"commands": ["true"], "image": "alpine"})
    [init], [main] = manifest.pod["spec"]["initContainers"], manifest.pod["spec"]["containers"]
    assert {"name": "X", "value": "for-init"} in init["env"]
    assert [e for e in main["env"] if e["name"] == "HOME"] == [{"name": "HOME", "value": "/elsewhere"}]
    [x] = [e for e in main["env"] if e["name"] == "X"]
    key = x["valueFrom"]["secretKeyRef"]
    assert key["name"] == manifest.name
    assert base64.b64decode(manifest.secret.data[key["key"]]) == b"for-main"
    assert (init["image"], main["image"]) == ("alpine", "busybox")


def test_both_steps_know_which_job_they_are() -> None:
    manifest = build(plan_of("job $(HOME)", attempt=2, init={"commands": ["true"]}), Kubernetes())
    for container in (*manifest.pod["spec"]["initContainers"], *manifest.pod["spec"]["containers"]):
        env = {e["name"]: e["value"] for e in container["env"]}
        assert env["LONGSHORE_JOB_ID"] == "job $$(HOME)"
        assert (env["LONGSHORE_QUEUE"], env["LONGSHORE_ATTEMPT"]) == ("default", "2")


def test_another_node_is_wished_for_after_a_failure_of_one() -> None:
    assert "affinity" not in build(plan_of("j"), Kubernetes()).pod["spec"]
    spec = build(replace(plan_of("j"), avoid=("n1", "n2")), Kubernetes()).pod["spec"]
    [wish] = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    [term] = wish["preference"]["matchExpressions"]
    assert term == {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1", "n2"]}


def test_the_file_of_variables_is_the_termination_message() -> None:
    manifest = build(plan_of("j", init={"commands": ["true"]}), Kubernetes())
    for container in (*manifest.pod["spec"]["initContainers"], *manifest.pod["spec"]["containers"]):
        assert {"name": "LONGSHORE_OUTCOME", "value": container["terminationMessagePath"]} in container["env"]
        assert container["terminationMessagePolicy"] == "File"


def test_files_scripts_and_the_secret() -> None:
    files = [{"path": "a/b.txt", "contents": "1", "mode": "0700"}, {"path": "/etc/c", "contents": "2"}]
    manifest = made(commands=["#" + "x" * 70_000], files=files)
    [main] = manifest.pod["spec"]["containers"]
    assert main["command"] == ["/bin/sh", "-e", "/run/longshore/script"]
    mounts = {m["mountPath"]: m for m in main["volumeMounts"]}
    assert mounts["/workspace/a/b.txt"]["subPath"] == "file-0"
    assert mounts["/etc/c"]["readOnly"] is True
    [volume] = [v for v in manifest.pod["spec"]["volumes"] if "secret" in v]
    assert [item["mode"] for item in volume["secret"]["items"]] == [0o750, 0o644, 0o444]
    secret = manifest.secret.owned_by("uid-1")
    assert secret["immutable"] is True
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert made().secret.data == {}


def test_folders_of_files_are_parts_of_the_volume_they_lie_in() -> None:
    files = [{"path": p, "contents": ""} for p in ("a/b/c", "top", "/tmp/w/d/e", "/tmp/x/y", "/opt/z/f")]
    [main] = made(workdir="/tmp/w", files=files).pod["spec"]["containers"]
    folders = [m for m in main["volumeMounts"] if m["name"] != "files" and "subPath" in m]
    assert folders == [
        {"name": "workdir", "mountPath": "/tmp/w/a", "subPath": "a"},
        {"name": "workdir", "mountPath": "/tmp/w/a/b", "subPath": "a/b"},
        {"name": "workdir", "mountPath": "/tmp/w/d", "subPath": "d"},
        {"name": "tmp", "mountPath": "/tmp/x", "subPath": "x"},
    ]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["/tmp"], "files[0].path: /tmp is a directory"),
        (["a", "/workspace/a"], "files[1].path: another file of this job lies there already"),
        (["a", "a/b"], "files[1].path: /workspace/a is a file of this job already"),
        (["a/b", "a"], "files[1].path: /workspace/a is the folder of another file"),
        (["/proc/x"], "files[0].path: no file can be laid down at /proc/x"),
        (["/run/longshore/script"], "files[0].path: no file can be laid down at /run/longshore/script"),
    ],
)
def test_files_that_cannot_lie_there_are_refused_by_name(paths: list[str], said: str) -> None:
    plan = plan_of(files=[{"path": path, "contents": ""} for path in paths])
    assert [text for _, text in refusals(plan, Kubernetes())] == [said]


def test_what_is_refused_names_the_field() -> None:
    settings = Kubernetes(allowed_service_accounts=("good",), allowed_secrets=("mine",))
    assert build(plan_of(service_account="good"), settings).pod["spec"]["serviceAccountName"] == "good"
    with pytest.raises(Unrunnable, match="service_account: bad isn't allowed; allowed: good") as caught:
        build(plan_of(service_account="bad"), settings)
    assert caught.value.reason is Reason.REFUSED
    reference = {"name": "A", "secret": "theirs", "key": "k"}
    with pytest.raises(Unrunnable, match=r"secrets\[0\].secret: theirs"):
        build(plan_of(secrets=[reference]), settings)
    pod = build(plan_of(secrets=[reference | {"secret": "mine"}]), settings).pod
    assert {"name": "mine", "key": "k"} in [
        e["valueFrom"]["secretKeyRef"] for e in pod["spec"]["containers"][0]["env"] if "valueFrom" in e
    ]
    with pytest.raises(Unrunnable, match="image: is required by the kubernetes executor") as caught:
        build(plan_of(image=None), settings)
    assert caught.value.reason is Reason.INVALID_JOB
    assert build(plan_of(image=None), Kubernetes(image="x")).pod["spec"]["containers"][0]["image"] == "x"
    with pytest.raises(Unrunnable, match=r"env\.BIG: is 140,000 bytes long"):
        build(plan_of(env={"BIG": "x" * 140_000}), settings)
    files = [{"path": "a", "contents": "x" * 400_000}, {"path": "b", "contents": "ä" * 310_000}]
    with pytest.raises(Unrunnable, match=r"files\[1\] \(b\): is too large"):
        build(plan_of(files=files), settings)
    assert [text for _, text in refusals(plan_of(workdir="/proc/x"), settings)] == [
        "workdir: /proc/x can't be a working directory"
    ]


def test_a_workdir_is_a_volume_unless_it_is_one_of_the_images() -> None:
    def mounted(**fields: Any) -> list[str]:
        manifest = made(**fields)
        [main] = manifest.pod["spec"]["containers"]
        paths = [m["mountPath"] for m in main["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert {m["name"] for m in main["volumeMounts"]} == {v["name"] for v in manifest.pod["spec"]["volumes"]}
        return [*(["here"] if main["workingDir"] in paths else []), *paths]

    assert mounted(workdir="/tmp") == ["here", "/tmp", "/home/longshore"]
    assert mounted(workdir="sub") == ["here", "/workspace/sub", "/home/longshore", "/tmp"]
    assert mounted(workdir="/tmp/build")[:2] == ["here", "/tmp/build"]
    assert mounted(workdir="/srv//app/") == ["/home/longshore", "/tmp"]
    assert mounted(workdir="/srv/app", init={"commands": ["x"]})[:2] == ["here", "/srv/app"]
    assert "/srv/app/conf/a" in mounted(workdir="/srv/app", files=[{"path": "conf/a", "contents": ""}])


def test_resources_merge_by_name_and_stay_possible() -> None:
    def resources(**given: Any) -> dict[str, Any]:
        found: dict[str, Any] = made(resources=given).pod["spec"]["containers"][0]["resources"]
        return found

    assert resources(requests={"cpu": "2"})["requests"] == {"cpu": "2", "memory": "128Mi", "ephemeral-storage": "0"}
    small = resources(limits={"memory": "64Mi"})
    assert (small["requests"]["memory"], small["limits"]["memory"]) == ("64Mi", "64Mi")
    big = resources(requests={"memory": "4Gi"})
    assert (big["requests"]["memory"], big["limits"]["memory"]) == ("4Gi", "4Gi")
    with pytest.raises(Unrunnable, match=r"resources\.requests\.cpu: 2 is more than resources\.limits\.cpu, 500m"):
        resources(requests={"cpu": "2"}, limits={"cpu": "500m"})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"annotations": {f"a{i}": "x" * 90_000 for i in range(3)}}, r"annotations: have 270,\d+ bytes"),
        ({"env": {f"E{i}": "$" * 100_000 for i in range(7)}}, r"env: .* a pod of 1,40\d,\d+ bytes"),
        ({"env": {f"E{i}": "" for i in range(5_001)}}, "env: has 5,001 variables .*; at most 5,000; use files"),
        ({"files": [{"path": f"{i}", "contents": ""} for i in range(501)]}, "files: are 501; at most 500 can be laid"),
    ],
)
def test_what_is_too_much_is_refused_before_anything_starts(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Unrunnable, match=said) as caught:
        made(**fields)
    assert caught.value.reason is Reason.INVALID_JOB


def test_a_payload_of_the_largest_size_fits() -> None:
    made(files=[{"path": "a", "contents": "x" * 999_900}])
    made(commands=["x" * 499_900], init={"commands": ["y" * 499_900]})


@pytest.mark.parametrize(
    ("quantity", "value"),
    [("500m", "0.5"), ("1Ki", "1024"), ("1.5Gi", "1610612736"), ("1e3", "1000"), ("2k", "2000"), ("3n", "0.000000003")],
)
def test_quantities(quantity: str, value: str) -> None:
    assert amount(quantity) == Decimal(value)
