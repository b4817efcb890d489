"""Profiles, options and templates with real pods, in namespaces that enforce the profile, with our Role alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consumer.errors import SetupError
from consumer.executors.kubernetes.api import Api, ApiError, path_of
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.manifest import sample
from consumer.executors.kubernetes.profiles import violations
from consumer.executors.kubernetes.template import merged
from consumer.model import Exit, Plan
from consumer.settings import Kubernetes
from support.cluster import drop_namespace, make_namespace, user_of
from support.kubernetes import plan_of, read

pytestmark = pytest.mark.cluster
PROFILES = ("restricted", "baseline", "privileged")


@pytest.fixture
async def namespaces(admin: Api, consumer_kubeconfig: Path) -> AsyncIterator[dict[str, str]]:
    """A namespace for each profile that admits no more than the profile."""
    user = user_of(consumer_kubeconfig)
    made = {profile: await make_namespace(admin, user, enforce=profile) for profile in PROFILES}
    yield made
    for name in made.values():
        await drop_namespace(admin, name)


@asynccontextmanager
async def opened(settings: Kubernetes) -> AsyncIterator[KubernetesExecutor]:
    executor = KubernetesExecutor(settings, "consumer-1")
    await executor.open()
    try:
        yield executor
    finally:
        await executor.close()


async def run(executor: KubernetesExecutor, plan: Plan) -> tuple[Exit, str]:
    execution = await executor.start(plan)
    try:
        async with asyncio.timeout(120):
            log = await read(execution.logs(), 120)
            return await execution.wait(), log.decode()
    finally:
        await execution.remove()


WRITES = [
    'touch "$HOME/a" "$TMPDIR/b" c && echo "volumes"',
    "mkdir -p /usr/lib/pkg 2>/dev/null && echo pkg >/usr/lib/pkg/file && echo image || echo no image",
    "id -u; cat conf/app.txt",
    "chown 1234 c 2>/dev/null && echo chown || echo no chown",
    "mknod /tmp/null c 1 3 2>/dev/null && echo >/tmp/null && echo mknod || echo no mknod",
    "mkdir /tmp/m; mount -t tmpfs none /tmp/m 2>/dev/null && echo mount || echo no mount",
]
FILES = [{"path": "conf/app.txt", "contents": "file\n"}]
TOLD = {
    "restricted": "volumes|no image|65532|file|no chown|no mknod|no mount",
    "baseline": "volumes|image|0|file|chown|mknod|no mount",
    "privileged": "volumes|image|0|file|chown|mknod|mount",
    "baseline, read only": "volumes|no image|0|file|chown|mknod|no mount",
}


async def test_what_a_job_can_do_under_each_profile(
    namespaces: dict[str, str], consumer_kubeconfig: Path, image: str
) -> None:
    async def told(kind: str) -> str:
        profile, _, read_only = kind.partition(", ")
        settings = Kubernetes.model_validate(
            {
                "namespace": namespaces[profile],
                "kubeconfig": consumer_kubeconfig,
                "profile": profile,
                "read_only": bool(read_only),
                "requests": {"cpu": "10m", "memory": "16Mi"},
            }
        )
        async with opened(settings) as executor:
            plan = plan_of(kind, commands=WRITES, files=FILES, image=image, init={"commands": ["true"]})
            end, log = await run(executor, plan)
            assert (end.code, end.reason) == (0, None), log
            return "|".join(log.splitlines())

    found = await asyncio.gather(*(told(kind) for kind in TOLD))
    assert dict(zip(TOLD, found, strict=True)) == TOLD


async def test_a_workdir_of_the_image_shows_what_the_image_holds(
    kubernetes_settings: Kubernetes,
) -> None:
    async with opened(kubernetes_settings) as executor:
        files = [{"path": "ours/a.conf", "contents": "conf"}]
        fields: dict[str, Any] = {"workdir": "/etc", "files": files}
        end, log = await run(executor, plan_of("image", commands=["pwd; ls passwd; cat ours/a.conf"], **fields))
        assert (end.code, log) == (0, "/etc\npasswd\nconf")
        relative = plan_of("relative", commands=["pwd; touch a; cat ours/a.conf"], workdir="x/y", files=files)
        end, log = await run(executor, relative)
        assert (end.code, log) == (0, "/workspace/x/y\nconf")
        shared = plan_of("init", commands=["pwd; cat made"], workdir="/srv/new", init={"commands": ["echo hi > made"]})
        end, log = await run(executor, shared)
        assert (end.code, log) == (0, "/srv/new\nhi\n")


async def test_large_jobs(kubernetes_settings: Kubernetes) -> None:
    """Scripts, files and variables up to the limit of a payload."""
    script = [f"x='{'y' * 90}' # {i}" for i in range(9_000)] + ["echo end of ${#x}"]
    many: dict[str, Any] = {
        "commands": ["cat f/1 f/299 | wc -c; echo ${#BIG7} ${#A1999}"],
        "files": [{"path": f"f/{i}", "contents": "z" * 1000} for i in range(300)],
        "variables": [{"name": f"BIG{i}", "value": f"{i}" + "v" * 60_000, "sensitive": i % 2 == 0} for i in range(8)],
        "env": {f"A{i}": "$" * 40 for i in range(2000)},
    }
    async with opened(kubernetes_settings) as executor:
        ends = await asyncio.gather(
            run(executor, plan_of("script", commands=script)),
            run(executor, plan_of("both", commands=script, init={"commands": [*script[:4], "echo init"]})),
            run(executor, plan_of("many", **many)),
        )
    assert [(end.code, end.reason, log) for end, log in ends] == [
        (0, None, "end of 90\n"),
        (0, None, "init\nend of 90\n"),
        (0, None, "2000\n60001 40\n"),
    ]


TEMPLATE = """
metadata:
  labels: {team: platform}
spec:
  shareProcessNamespace: false
  containers:
    - name: main
      env: [{name: PROXY, value: "http://proxy:3128"}]
      volumeMounts: [{name: shared, mountPath: /shared}]
    - name: beside
      image: IMAGE
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "echo beside > /shared/beside; trap exit TERM; while :; do sleep 0.1; done"]
      volumeMounts: [{name: shared, mountPath: /shared}]
  initContainers:
    - name: helper
      image: IMAGE
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "echo '#!/bin/sh\\necho helper' > /shared/tool; chmod 755 /shared/tool"]
      volumeMounts: [{name: shared, mountPath: /shared}]
    - name: native
      image: IMAGE
      imagePullPolicy: IfNotPresent
      restartPolicy: Always
      command: [sh, -c, "trap exit TERM; while :; do sleep 0.1; done"]
  volumes:
    - {name: shared, emptyDir: {}}
    - {name: tmp, emptyDir: {medium: Memory}}
"""


async def test_a_template_with_containers_beside_the_job(
    kubernetes_settings: Kubernetes, image: str, tmp_path: Path
) -> None:
    """The job's end is the main container's, though another one runs on."""
    path = tmp_path / "pod.yaml"
    body = "".join(f"  {line}\n" for line in TEMPLATE.replace("IMAGE", image).splitlines())
    path.write_text(f"apiVersion: v1\nkind: PodTemplate\ntemplate:{body}")
    settings = kubernetes_settings.model_copy(update={"template": path})
    async with opened(settings) as executor:
        commands = ["until cat /shared/beside 2>/dev/null; do sleep 0.1; done", "/shared/tool; echo $PROXY; exit 3"]
        end, log = await run(executor, plan_of(commands=commands))
    assert (end.code, end.message, log) == (3, None, "beside\nhelper\nhttp://proxy:3128\n")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"spec": {"containres": []}}, 'unknown field "spec.containres"'),
        (
            {"spec": {"containers": [{"name": "main", "volumeMounts": [{"name": "no", "mountPath": "/x"}]}]}},
            "Not found",
        ),
    ],
)
async def test_a_template_that_the_cluster_does_not_take_stops_the_start(
    kubernetes_settings: Kubernetes, template: dict[str, Any], said: str
) -> None:
    with pytest.raises(SetupError, match=r"kubernetes\.template: the cluster doesn't accept the pod") as caught:
        async with opened(kubernetes_settings.model_copy(update={"template": template})):
            pass
    assert said in str(caught.value)


BEYOND: list[dict[str, Any]] = [
    {},
    {"hostNetwork": True},
    {"hostPID": True},
    {"hostIPC": True},
    {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]},
    {"volumes": [{"name": "x", "nfs": {"server": "s", "path": "/"}}]},
    {"volumes": [{"name": "x", "persistentVolumeClaim": {"claimName": "c"}}]},
    {"securityContext": {"runAsNonRoot": None}},
    {"securityContext": {"runAsUser": 0}},
    {"hostUsers": False},
    {"securityContext": {"seccompProfile": None}},
    {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
    {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
    {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
    {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
    {"securityContext": {"seLinuxOptions": {"user": "u"}}},
    {"securityContext": {"seLinuxOptions": {"type": "container_t"}}},
    *(
        {"containers": [{"name": "main", **given}]}
        for given in (
            {"securityContext": {"privileged": True, "allowPrivilegeEscalation": None}},
            {"securityContext": {"allowPrivilegeEscalation": None}},
            {"securityContext": {"allowPrivilegeEscalation": True}},
            {"securityContext": {"capabilities": None}},
            {"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}}},
            {"securityContext": {"capabilities": {"add": ["CHOWN"]}}},
            {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}},
            {"securityContext": {"runAsNonRoot": False}},
            {"ports": [{"containerPort": 80, "hostPort": 80}]},
            {"ports": [{"containerPort": 80}]},
            {"livenessProbe": {"tcpSocket": {"host": "h", "port": 1}}},
            {"lifecycle": {"preStop": {"httpGet": {"host": "h", "port": 1}}}},
        )
    ),
]


async def test_our_reading_of_the_profiles_is_the_clusters(admin: Api, namespaces: dict[str, str]) -> None:
    """A pod is admitted to a namespace that enforces a profile exactly if we find nothing in it beyond the profile."""
    plain = sample(Kubernetes(), "consumer-1")

    async def admitted(spec: dict[str, Any], profile: str) -> bool:
        pod = merged(plain, {"spec": spec}, {})
        try:
            await admin.request("POST", path_of(namespaces[profile], "pods"), query={"dryRun": "All"}, body=pod)
        except ApiError as error:
            said = error.message
        else:
            said = ""
        assert said == "" or "violates PodSecurity" in said, said
        assert (said == "") == (violations(pod, profile) == []), (profile, spec)
        return said == ""

    for profile in ("restricted", "baseline"):
        assert set(await asyncio.gather(*(admitted(spec, profile) for spec in BEYOND))) == {True, False}
