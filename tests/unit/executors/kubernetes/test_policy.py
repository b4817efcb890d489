"""What a job may ask of its pod: by default nothing that is dangerous, and never a field that isn't its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consumer.errors import Unrunnable
from consumer.executors.kubernetes.manifest import build
from consumer.executors.kubernetes.profiles import violations
from consumer.settings import Kubernetes
from enqueue.errors import InvalidJob
from enqueue.job import Job
from enqueue.record import Reason
from support.kubernetes import plan_of

DIGEST = "sha256:" + "0" * 64
GPU = "vendor.example/gpu"


def spec_of(settings: Kubernetes, **fields: Any) -> dict[str, Any]:
    spec: dict[str, Any] = build(plan_of(**fields), settings).pod["spec"]
    return spec


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"service_account": "a"}, "service_account: a isn't allowed; allowed: none"),
    ({}, {"runtime_class": "gvisor"}, "runtime_class: gvisor isn't allowed; allowed: none"),
    (
        {"runtime_class": "kata", "allowed_runtime_classes": ["gvisor"]},
        {"runtime_class": "runc"},
        "runtime_class: runc isn't allowed; allowed: kata, gvisor",
    ),
    ({}, {"priority_class": "system-node-critical"}, "priority_class: system-node-critical isn't allowed"),
    ({}, {"image_pull_secrets": ["x"]}, "image_pull_secrets[0]: x isn't allowed; allowed: none"),
    ({}, {"secrets": [{"name": "A", "secret": "s", "key": "k"}]}, "secrets[0].secret: s isn't allowed; allowed: none"),
    ({}, {"node_selector": {"a": "b"}}, "node_selector.a: b isn't allowed; allowed: none"),
    (
        {"allowed_node_selectors": ["pool=ci-*"]},
        {"node_selector": {"pool": "prod"}},
        "node_selector.pool: prod isn't allowed; allowed: pool=ci-*",
    ),
    ({"node_selector": {"a": "b"}}, {"node_selector": {"a": "c"}}, "node_selector.a: is b for every job here"),
    ({}, {"tolerations": [{"key": "gpu"}]}, "tolerations[0]: gpu=:* isn't allowed; allowed: none"),
    (
        {"allowed_tolerations": ["gpu=a*:NoSchedule"]},
        {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        "tolerations[0]: gpu=*:* isn't allowed; allowed: gpu=a*:NoSchedule",
    ),
    ({"labels": {"team": "a"}}, {"labels": {"team": "b"}}, "labels.team: is set by the operator"),
    ({"annotations": {"x": "a"}}, {"annotations": {"x": "b"}}, "annotations.x: is set by the operator"),
    ({"allowed_labels": ["ci/*"]}, {"labels": {"team": "b"}}, "labels.team: isn't allowed; allowed: ci/*"),
    ({"allowed_annotations": []}, {"annotations": {"x/y": "b"}}, "annotations.x/y: isn't allowed; allowed: none"),
    ({"limits_max": {"memory": "2Gi"}}, {"resources": {"limits": {"memory": "3Gi"}}}, "3Gi is more than 2Gi, the most"),
    (
        {"limits_max": {"cpu": "1"}},
        {"resources": {"requests": {"cpu": "1001m"}}},
        "resources.requests.cpu: 1001m is more than 1, the most",
    ),
    ({}, {"resources": {"limits": {GPU: "1"}}}, f"resources.limits.{GPU}: isn't allowed; allowed of its kind: none"),
    ({"limits_max": {GPU: "2"}}, {"resources": {"limits": {GPU: "3"}}}, "3 is more than 2, the most allowed"),
    (
        {"allowed_images": ["ghcr.io/team/**"]},
        {"init": {"image": "alpine", "commands": ["x"]}, "image": "ghcr.io/team/a"},
        "init.image: docker.io/library/alpine:latest isn't allowed; allowed: ghcr.io/team/**",
    ),
    ({"allowed_images": ["alpine"]}, {}, "image: docker.io/library/busybox:latest isn't allowed; allowed: alpine"),
    ({"require_digest": True}, {}, "image: docker.io/library/busybox:latest must be named by its digest"),
    ({"image_pull_policy": "Never"}, {"image_pull_policy": "Always"}, "image_pull_policy: no image is pulled here"),
    (
        {"image_pull_policy": "IfNotPinned"},
        {"image_pull_policy": "IfNotPresent"},
        "image_pull_policy: IfNotPresent isn't allowed for docker.io/library/busybox:latest; allowed: Always",
    ),
]


@pytest.mark.parametrize(("settings", "fields", "said"), REFUSED)
def test_what_the_operator_does_not_allow_is_refused_by_name(
    settings: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(Unrunnable) as caught:
        spec_of(Kubernetes.model_validate(settings), **fields)
    assert said in str(caught.value)
    assert caught.value.reason is Reason.REFUSED


def test_what_the_operator_allows_is_in_the_pod() -> None:
    settings = Kubernetes.model_validate(
        {
            "allowed_runtime_classes": ["gvisor"],
            "priority_class": "low",
            "allowed_image_pull_secrets": ["mine"],
            "image_pull_secrets": ["ours"],
            "node_selector": {"pool": "ci"},
            "allowed_node_selectors": ["kubernetes.io/arch"],
            "tolerations": [{"key": "ci", "operator": "Exists"}],
            "allowed_tolerations": ["gpu"],
            "dns_policy": "Default",
            "host_users": False,
            "service_account": "jobs",
            "service_account_token": True,
            "labels": {"team": "a"},
        }
    )
    spec = spec_of(
        settings,
        runtime_class="gvisor",
        image_pull_secrets=["mine", "ours"],
        node_selector={"kubernetes.io/arch": "arm64", "pool": "ci"},
        tolerations=[
            {"key": "gpu", "value": "a100", "effect": "NoExecute", "seconds": 9},
            {"key": "ci", "operator": "Exists"},
        ],
        labels={"team": "a"},
    )
    assert {name: spec[name] for name in ("runtimeClassName", "priorityClassName", "dnsPolicy", "hostUsers")} == {
        "runtimeClassName": "gvisor", "priorityClassName": "low", "dnsPolicy": "Default", "hostUsers": False,
    }  # fmt: skip
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("jobs", True)
    assert spec["imagePullSecrets"] == [{"name": "ours"}, {"name": "mine"}]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64", "pool": "ci"}
    assert spec["tolerations"] == [
        {"key": "ci", "operator": "Exists"},
        {"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoExecute", "tolerationSeconds": 9},
    ]


@pytest.mark.parametrize(
    ("policy", "image", "asked", "found"),
    [
        ("IfNotPresent", "busybox", None, "IfNotPresent"),
        ("IfNotPresent", "busybox", "Always", "Always"),
        ("IfNotPresent", "busybox", "IfNotPresent", "IfNotPresent"),
        ("IfNotPinned", "busybox:1", None, "Always"),
        ("IfNotPinned", f"busybox@{DIGEST}", None, "IfNotPresent"),
        ("IfNotPinned", f"busybox@{DIGEST}", "Always", "Always"),
        ("Never", "busybox", None, "Never"),
    ],
)
def test_pull_policies(policy: str, image: str, asked: str | None, found: str) -> None:
    settings = Kubernetes.model_validate({"image_pull_policy": policy})
    [main] = spec_of(settings, image=image, image_pull_policy=asked)["containers"]
    assert main["imagePullPolicy"] == found


def test_ceilings_and_devices() -> None:
    settings = Kubernetes(limits_max={"cpu": "4", "memory": "8Gi", GPU: "2"})
    [main] = spec_of(settings)["containers"]
    assert main["resources"]["limits"] == {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "10Gi"}
    [main] = spec_of(settings, resources={"requests": {GPU: "1", "memory": "8Gi"}})["containers"]
    assert main["resources"]["limits"] == {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", GPU: "1"}
    assert main["resources"]["requests"][GPU] == "1"
    with pytest.raises(Unrunnable, match=f"resources.requests.{GPU}: must equal"):
        spec_of(settings, resources={"requests": {GPU: "1"}, "limits": {GPU: "2"}})
    with pytest.raises(Unrunnable, match=f"resources.limits.{GPU}: must be a whole number"):
        spec_of(settings, resources={"limits": {GPU: "500m"}})


def test_empty_volumes_have_a_size_which_a_job_raises_by_the_storage_that_it_asks_for() -> None:
    def sizes(settings: Kubernetes, **fields: Any) -> list[Any]:
        return [volume["emptyDir"] for volume in spec_of(settings, **fields)["volumes"]]

    assert sizes(Kubernetes()) == [{"sizeLimit": "10Gi"}] * 3
    small = Kubernetes(volume_size="1Gi")
    for asked, size in (("2000Mi", "2000Mi"), ("500Mi", "1Gi")):
        assert sizes(small, resources={"limits": {"ephemeral-storage": asked}}) == [{"sizeLimit": size}] * 3
        unlimited = Kubernetes(volume_size="0")
        assert sizes(unlimited, resources={"limits": {"ephemeral-storage": asked}}) == [{}] * 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"requests": {"cpu": "much"}}, "'much' is no quantity"),
        ({"volume_size": "much"}, "'much' is no quantity"),
        ({"limits": {"memory": "2Gi"}, "limits_max": {"memory": "1Gi"}}, "limits: memory: 2Gi is more than 1Gi"),
        ({"allowed_images": ["a b"]}, "a pattern is"),
        ({"allowed_images": ["alpine"], "image": "busybox"}, "isn't among allowed_images"),
        ({"require_digest": True, "image": "busybox"}, "must be named by its digest"),
        ({"image": "Busy box"}, "image: can't be parsed"),
    ],
)
def test_settings_that_contradict_themselves_are_refused_at_the_start(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Kubernetes.model_validate(settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "field",
    ["nodeName", "node_name", "hostNetwork", "host_network", "volumes", "securityContext", "privileged", "envFrom",
     "ephemeralContainers", "affinity", "run_as_user", "automountServiceAccountToken", "hostAliases", "dns_policy"],
)  # fmt: skip
def test_no_job_has_such_a_field(field: str) -> None:
    with pytest.raises(InvalidJob, match=f"unknown field '{field}'"):
        Job.load({"image": "a", "commands": ["x"], field: True})


def test_an_old_payload_keeps_its_digest() -> None:
    job = Job.load({"image": "a", "commands": ["x"], "resources": {"limits": {"cpu": "1"}}})
    assert job.payload() == {"image": "a", "commands": ["x"], "resources": {"limits": {"cpu": "1"}}}
    assert job.digest() == "ba33d3f040ea14c92b9ce88101521854b61ca64402da5d99c576694d8f83fb01"


short = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
word = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
path = st.builds(lambda root, parts: root + "/".join(parts), st.sampled_from(["", "/", "/workspace/", "/tmp/"]),
                 st.lists(word, min_size=1, max_size=3))  # fmt: skip
jobs = st.fixed_dictionaries(
    {"commands": st.lists(short.map("x".__add__), min_size=1, max_size=2)},
    optional={
        "workdir": path,
        "env": st.dictionaries(word, short, max_size=2),
        "files": st.lists(
            st.fixed_dictionaries({"path": path, "contents": short}), max_size=2, unique_by=lambda f: f["path"]
        ),
        "init": st.just({"commands": ["true"], "image": "alpine"}),
        "labels": st.dictionaries(word, word, max_size=2),
        "annotations": st.dictionaries(word, short, max_size=2),
        "service_account": word,
        "secrets": st.lists(st.builds(lambda n: {"name": "S", "secret": n, "key": "k"}, word), max_size=1),
        "image_pull_secrets": st.lists(word, max_size=1),
        "node_selector": st.dictionaries(word, word, max_size=1),
        "tolerations": st.lists(st.builds(lambda k: {"key": k, "operator": "Exists"}, word), max_size=1),
        "runtime_class": word,
        "priority_class": word,
        "resources": st.builds(lambda n, v: {"limits": {n: v}}, st.sampled_from(["cpu", "memory", GPU]), st.just("1")),
    },
)  # fmt: skip
ALLOWING = Kubernetes.model_validate(
    {
        "allowed_service_accounts": ["a"], "allowed_node_selectors": ["a*"], "allowed_tolerations": ["a*"],
        "allowed_runtime_classes": ["a"], "allowed_priority_classes": ["a"], "allowed_secrets": ["a"],
    }
)  # fmt: skip
KNOWN = {
    "restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "terminationGracePeriodSeconds",
    "securityContext", "activeDeadlineSeconds", "containers", "initContainers", "volumes", "serviceAccountName",
    "runtimeClassName", "priorityClassName", "nodeSelector", "tolerations", "imagePullSecrets", "affinity",
}  # fmt: skip
KNOWN_OF_CONTAINER = {
    "name", "image", "imagePullPolicy", "workingDir", "env", "resources", "volumeMounts", "securityContext", "command",
    "args", "terminationMessagePath", "terminationMessagePolicy",
}  # fmt: skip


@given(fields=jobs, settings=st.sampled_from([Kubernetes(), ALLOWING]))
def test_no_job_makes_a_forbidden_field(fields: dict[str, Any], settings: Kubernetes) -> None:
    try:
        pod = build(plan_of(**fields), settings).pod
    except Unrunnable:
        return
    spec = pod["spec"]
    assert violations(pod, "restricted") == []
    assert spec.keys() <= KNOWN
    assert spec["automountServiceAccountToken"] is False
    assert spec.get("serviceAccountName") in (None, *settings.allowed_service_accounts)
    assert pod["metadata"].keys() == {"name", "labels", "annotations"}
    for volume in spec["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "secret"}
        assert volume.get("secret", {}).get("secretName") in (None, pod["metadata"]["name"])
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        assert container.keys() <= KNOWN_OF_CONTAINER
        for variable in container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
            assert reference.get("name") in (None, pod["metadata"]["name"], *settings.allowed_secrets)
    for name in ("nodeSelector", "tolerations", "runtimeClassName", "priorityClassName"):
        assert settings is ALLOWING or name not in spec
