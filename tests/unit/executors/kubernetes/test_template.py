"""The operator's pod template: merged by name, never beyond the profile, never into what makes a pod ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import SetupError, Unrunnable
from consumer.executors.kubernetes.manifest import build, sample
from consumer.executors.kubernetes.profiles import violations
from consumer.executors.kubernetes.template import template_of
from consumer.settings import Kubernetes, load_settings
from support.kubernetes import plan_of


def made(template: dict[str, Any], fields: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return build(plan_of(**(fields or {})), Kubernetes(template=template, **settings)).pod


FULL = """
apiVersion: v1
kind: PodTemplate
template:
  metadata:
    labels: {team: platform}
    annotations: {karpenter.sh/do-not-disrupt: null, example.com/a: "1"}
  spec:
    hostAliases: [{ip: 10.0.0.1, hostnames: [git.example]}]
    tolerations: [{key: ci, operator: Exists}]
    imagePullSecrets: [{name: more}]
    affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}
    containers:
      - name: main
        env: [{name: HTTP_PROXY, value: "http://proxy:3128"}, {name: A, value: theirs}]
        volumeMounts: [{name: cache, mountPath: /cache}]
        resources: {limits: {cpu: "2", memory: null}}
      - name: proxy
        image: proxy:1
    initContainers:
      - {name: init, env: [{name: B, value: b}]}
      - {name: helper, image: helper:1, restartPolicy: Always}
    volumes:
      - {name: cache, persistentVolumeClaim: {claimName: cache}}
      - {name: tmp, emptyDir: {medium: Memory}}
      - {name: home, persistentVolumeClaim: {claimName: home}}
"""


def test_the_template_is_merged_by_name(tmp_path: Path) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(FULL)
    settings = Kubernetes(template=path, image_pull_secrets=("ours",), labels={"a": "b"})
    fields: dict[str, Any] = {"env": {"A": "mine", "C": "c"}, "tolerations": [], "init": {"commands": ["true"]}}
    pod = build(plan_of(**fields), settings).pod
    plain = build(plan_of(**fields), settings.model_copy(update={"template": None})).pod
    meta, spec = pod["metadata"], pod["spec"]
    assert meta["name"] == plain["metadata"]["name"]
    assert meta["labels"] == plain["metadata"]["labels"] | {"team": "platform"}
    assert "karpenter.sh/do-not-disrupt" not in meta["annotations"]
    assert meta["annotations"]["example.com/a"] == "1"
    main, proxy = spec["containers"]
    env = {v["name"]: v.get("value") for v in main["env"]}
    assert (env["HTTP_PROXY"], env["A"], env["C"]) == ("http://proxy:3128", "theirs", "c")
    assert main["command"] == plain["spec"]["containers"][0]["command"]
    assert {"name": "cache", "mountPath": "/cache"} in main["volumeMounts"]
    assert main["resources"]["limits"] == {"cpu": "2", "ephemeral-storage": "10Gi"}
    assert main["resources"]["requests"]["memory"] == "128Mi"
    assert proxy["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert [c["name"] for c in spec["initContainers"]] == ["helper", "init"]
    assert {"name": "B", "value": "b"} in spec["initContainers"][1]["env"]
    volumes = {v["name"]: v for v in spec["volumes"]}
    assert volumes["tmp"] == {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "10Gi"}}
    assert volumes["home"] == {"name": "home", "persistentVolumeClaim": {"claimName": "home"}}
    assert volumes["workdir"] == {"name": "workdir", "emptyDir": {"sizeLimit": "10Gi"}}
    assert spec["imagePullSecrets"] == [{"name": "ours"}, {"name": "more"}]
    assert spec["tolerations"] == [{"key": "ci", "operator": "Exists"}]
    for name in ("restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "securityContext"):
        assert spec[name] == plain["spec"][name]
    assert violations(pod, "restricted") == []
    assert build(plan_of(**fields), settings).pod == pod


def test_containers_of_the_template_are_pulled_by_the_same_rule() -> None:
    pinned = f"proxy@sha256:{'0' * 64}"
    own = [{"name": "a", "image": "proxy"}, {"name": "b", "image": pinned}]
    own += [{"name": "c", "image": "proxy", "imagePullPolicy": "Never"}]
    template = {"spec": {"initContainers": own, "containers": own[:1]}}
    settings = Kubernetes(template=template, image_pull_policy="IfNotPinned")
    spec = build(plan_of(image_pull_policy="Always", image=pinned), settings).pod["spec"]
    policies = {c["name"]: c["imagePullPolicy"] for c in spec["initContainers"]}
    assert policies == {"a": "Always", "b": "IfNotPresent", "c": "Never"}
    assert [c["imagePullPolicy"] for c in spec["containers"]] == ["Always", "Always"]


def test_init_of_the_template_needs_an_init_step_to_go_to() -> None:
    template = {"spec": {"initContainers": [{"name": "init", "env": [{"name": "A", "value": "b"}]}]}}
    assert "initContainers" not in made(template)["spec"]
    assert [c["name"] for c in made(template, {"init": {"commands": ["x"]}})["spec"]["initContainers"]] == ["init"]


BAD: list[tuple[Any, str]] = [
    ([], "must be a Pod or a PodTemplate, not a list"),
    ({"kind": "Deployment"}, "kind: must be Pod or PodTemplate, not Deployment"),
    ({"kind": "PodTemplate", "template": [1]}, "template: must be an object, not a list"),
    ({"status": {}}, "status: isn't read"),
    ({"spec": [1]}, "spec: must be an object, not a list"),
    ({"metadata": {"name": "x"}}, "metadata.name: can't be set by a template"),
    ({"metadata": {"finalizers": ["x"]}}, "metadata.finalizers: can't be set"),
    ({"metadata": {"ownerReferences": []}}, "metadata.ownerReferences: can't be set"),
    ({"metadata": {"labels": None}}, "metadata.labels: must be an object, not null"),
    ({"metadata": {"labels": {"longshore.dev/job": "x"}}}, "metadata.labels.longshore.dev/job: is longshore's own"),
    ({"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}, "is longshore's own"),
    ({"metadata": {"annotations": {"a": 1}}}, "metadata.annotations.a: must be text, not a number"),
    ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy: can't be set by a template"),
    ({"spec": {"activeDeadlineSeconds": None}}, "spec.activeDeadlineSeconds: can't be set by a template: set jobs."),
    ({"spec": {"nodeName": "n"}}, "spec.nodeName: can't be set"),
    ({"spec": {"serviceAccountName": "n"}}, "set kubernetes.service_account"),
    ({"spec": {"automountServiceAccountToken": True}}, "set kubernetes.service_account_token"),
    ({"spec": {"ephemeralContainers": []}}, "spec.ephemeralContainers: can't be set"),
    ({"spec": {"containers": None}}, "spec.containers: must be a list; the job needs its own"),
    ({"spec": {"containers": {}}}, "spec.containers: must be a list, not an object"),
    ({"spec": {"containers": ["x"]}}, "spec.containers[0]: must be an object, not text"),
    ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name: is required"),
    ({"spec": {"containers": [{"name": "x"}]}}, "spec.containers[0].image: is required"),
    ({"spec": {"containers": [{"name": "x", "image": 1}]}}, "spec.containers[0].image: must be text, not a number"),
    ({"spec": {"initContainers": [{"name": "x", "image": "a b"}]}}, "spec.initContainers[0].image: "),
    ({"spec": {"containers": [{"name": "x", "image": "y"}] * 2}}, "spec.containers[1].name: x is given twice"),
    ({"spec": {"containers": [{"name": "init"}]}}, "spec.containers[0].name: init belongs to initContainers"),
    ({"spec": {"initContainers": [{"name": "main"}]}}, "spec.initContainers[0].name: main belongs to containers"),
    ({"spec": {"containers": [{"name": "main", "image": "x"}]}}, "spec.containers[0].image: can't be set for main"),
    ({"spec": {"containers": [{"name": "main", "command": None}]}}, "spec.containers[0].command: can't be set"),
    ({"spec": {"containers": [{"name": "main", "env": None}]}}, "spec.containers[0].env: must be a list"),
    (
        {"spec": {"containers": [{"name": "main", "env": [{"name": "LONGSHORE_JOB_ID", "value": "x"}]}]}},
        "spec.containers[0].env[0].name: LONGSHORE_... is set by longshore",
    ),
    ({"spec": {"volumes": [{"name": "files", "emptyDir": {}}]}}, "spec.volumes[0].name: files is the job's own"),
    ({"spec": {"$patch": "replace"}}, "spec.$patch: isn't read here"),
    ({"spec": {"containers": [{"name": "main", "$patch": "delete"}]}}, "spec.containers[0].$patch: isn't read"),
    ({"spec": {"tolerations": "all"}}, "spec.tolerations: must be a list, not text"),
    ({"spec": {"hostNetwork": True}}, "spec.hostNetwork: isn't allowed by the profile restricted"),
    ({"spec": {"securityContext": None}}, "isn't allowed by the profile restricted"),
    (
        {"spec": {"containers": [{"name": "main", "securityContext": {"privileged": True}}]}},
        "spec.containers[main].sec",
    ),
    (
        {"spec": {"initContainers": [{"name": "longshore-outputs", "image": "my/own:1"}]}},
        "spec.initContainers[0].name: longshore-outputs is longshore's own",
    ),
    (
        {"spec": {"containers": [{"name": "longshore-outputs", "image": "my/own:1"}]}},
        "spec.containers[0].name: longshore-outputs is longshore's own",
    ),
    (
        {"spec": {"volumes": [{"name": "outputs", "persistentVolumeClaim": {"claimName": "shared"}}]}},
        "spec.volumes[0].name: outputs has what a job hands over",
    ),
    ({"spec": {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}}, "spec.volumes[a].hostPath: isn't allowed"),
]


@pytest.mark.parametrize(("template", "said"), BAD)
def test_a_bad_template_stops_the_start_and_names_the_field(tmp_path: Path, template: Any, said: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(json.dumps(template))
    with pytest.raises(SetupError) as caught:
        sample(Kubernetes(template=path), "consumer-1")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [x]\nb: *a", "aliases"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases"),
        ("spec: {}\nspec: {}", "'spec' is given twice"),
        ("spec: [", "isn't YAML"),
        ("spec: !!python/object/apply:os.system [x]", "isn't YAML"),
        ("spec: " + "{a: " * 40 + "1" + "}" * 40, "is nested too deeply"),
        ("[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("# " + "x" * 300_000, "at most 262,144 are read"),
        ("", "must be a Pod or a PodTemplate, not null"),
        ("1: 2", "isn't read"),
    ],
)
def test_a_file_that_is_no_template(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(SetupError) as caught:
        template_of(Kubernetes(template=path))
    assert str(caught.value).startswith(f"kubernetes.template: {path}: ")
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.yaml: No such file"):
        template_of(Kubernetes(template=tmp_path / "none.yaml"))


def test_a_profile_that_allows_more_allows_the_template_more() -> None:
    template = {"spec": {"hostNetwork": True, "volumes": [{"name": "docker", "hostPath": {"path": "/run/docker"}}]}}
    with pytest.raises(
        SetupError, match=r"hostNetwork, spec\.volumes\[docker\]\.hostPath: isn't allowed by .* baseline"
    ):
        sample(Kubernetes(template=template, profile="baseline"), "c")
    spec = made(template, profile="privileged")["spec"]
    assert spec["hostNetwork"] is True


def test_a_file_of_the_job_is_never_replaced_by_the_templates_mount() -> None:
    template = {
        "spec": {
            "containers": [{"name": "main", "volumeMounts": [{"name": "tmp", "mountPath": "/etc/app.conf"}]}],
        }
    }
    made(template)
    with pytest.raises(Unrunnable, match=r"mounts something else at /etc/app\.conf"):
        made(template, {"files": [{"path": "/etc/app.conf", "contents": "x"}]})


def test_what_a_job_hands_over_lies_in_its_own_pod_alone() -> None:
    larger = {"spec": {"volumes": [{"name": "outputs", "emptyDir": {"sizeLimit": "50Gi"}}]}}
    fields = {"outputs": {"include": ["*"]}}
    [volume] = [volume for volume in made(larger, fields)["spec"]["volumes"] if volume["name"] == "outputs"]
    assert volume["emptyDir"] == {"sizeLimit": "50Gi"}
    mount = {"name": "tmp", "mountPath": "/run/longshore/outputs"}
    template = {"spec": {"containers": [{"name": "main", "volumeMounts": [mount]}]}}
    made(template)
    with pytest.raises(Unrunnable, match=r"outputs: .* mounts something else at /run/longshore/outputs"):
        made(template, fields)


keys = st.sampled_from(
    ["metadata", "spec", "containers", "initContainers", "name", "main", "env", "volumes", "securityContext", "labels",
     "privileged", "hostPath", "command", "image", "hostNetwork", "restartPolicy", "volumeMounts", "mountPath",
     "longshore.dev/job", "annotations", "emptyDir", "runAsUser", "tolerations", "capabilities", "add"]
)  # fmt: skip
leaves = st.sampled_from([None, True, 0, "main", "init", "files", "x", "SYS_ADMIN", [], {}])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=15,
)


@given(spec=st.dictionaries(keys, trees, max_size=4), metadata=st.dictionaries(keys, trees, max_size=2))
def test_whatever_the_template_says_the_pod_is_ours_and_within_the_profile(
    spec: dict[str, Any], metadata: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"init": {"commands": ["x"]}, "files": [{"path": "a", "contents": "b"}]}
    policy = Kubernetes(template={"spec": spec, "metadata": metadata})
    plain = build(plan_of(**fields), Kubernetes()).pod
    try:
        pod = build(plan_of(**fields), policy).pod
    except (SetupError, Unrunnable):
        return
    assert violations(pod, "restricted") == []
    for step, kind in (("main", "containers"), ("init", "initContainers")):
        [ours] = [c for c in plain["spec"][kind] if c["name"] == step]
        [theirs] = [c for c in pod["spec"][kind] if c["name"] == step]
        assert (ours["image"], ours["command"]) == (theirs["image"], theirs["command"])
    assert pod["metadata"]["name"] == plain["metadata"]["name"]
    assert plain["metadata"]["labels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["restartPolicy"] == "Never"


def test_the_settings_and_the_template_of_the_docs_are_right(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "policy.md").read_text()
    settings, template = (block.partition("```")[0] for block in text.split("```yaml\n")[1:])
    (tmp_path / "longshore.yaml").write_text(settings)
    loaded = load_settings(tmp_path / "longshore.yaml").kubernetes
    (tmp_path / "pod.yaml").write_text(template)
    pod = sample(loaded.model_copy(update={"template": tmp_path / "pod.yaml"}), "consumer-1")
    assert [container["name"] for container in pod["spec"]["containers"]] == ["main", "docker"]
    assert pod["spec"]["nodeSelector"] == {"pool": "jobs"}
