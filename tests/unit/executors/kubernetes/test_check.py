"""`longshore check` on the fake API server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consumer.executors.kubernetes.check import check_cluster
from consumer.executors.kubernetes.executor import KubernetesExecutor
from consumer.executors.kubernetes.rights import RIGHTS, Right
from consumer.findings import Finding, Level, clock_finding
from consumer.settings import Kubernetes
from support.fakekube import FakeKube
from support.fakekube_http import Request

Make = Callable[..., Kubernetes]


async def problems(settings: Kubernetes) -> list[Finding]:
    found = await check_cluster(settings, "c")
    assert all(finding.fix for finding in found if finding.level in (Level.PROBLEM, Level.WARNING))
    return [finding for finding in found if finding.level is Level.PROBLEM]


async def test_it_leaves_no_trace(kube: FakeKube, settings: Make) -> None:
    found = await check_cluster(settings(allowed_service_accounts=("robot",)), "c")
    assert [finding.level for finding in found if finding.area == "rights"] == [Level.GOOD]
    assert kube.names("pods") == kube.names("secrets") == kube.names("leases") == kube.created == []
    made = [request for request in kube.ledger if request.verb.startswith(("create", "update"))]
    assert made
    assert all(dry(request) for request in made)
    assert {request.name for request in kube.ledger if request.verb.startswith("delete")} == {"ls-check"}


def dry(request: Request) -> bool:
    return request.query.get("dryRun") == "All"


@pytest.mark.parametrize("right", RIGHTS, ids=str)
async def test_each_missing_right_is_named(kube: FakeKube, settings: Make, right: Right) -> None:
    kube.forbidden.add(str(right))
    found = [f for f in await check_cluster(settings(), "c") if f.area == "rights"]
    assert [(f.level, f.fix) for f in found] == [
        (
            Level.PROBLEM if right.needed else Level.WARNING,
            "kubectl apply -f k8s/base/rbac.yaml, with its names changed to yours",
        )
    ]
    assert found[0].text.startswith(f"may not {right} in namespace 'jobs': ")


async def test_a_missing_namespace_a_wrong_token_and_no_server(kube: FakeKube, settings: Make) -> None:
    [found] = await problems(settings(namespace="nowhere"))
    assert "namespace 'nowhere' doesn't exist" in found.text
    kube.token = "Bearer right"
    [found] = await problems(settings())
    assert "doesn't accept our credentials" in found.text
    kube.token = None
    lost = settings()
    await kube.stop()
    [found] = await problems(lost)
    assert "connection refused" in found.text
    [found] = await problems(lost.model_copy(update={"kubeconfig": type(lost.kubeconfig)("/none")}))
    assert "kubeconfig /none doesn't exist" in found.text


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "profile"),
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5', "ResourceQuota"),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Mi, but limit is 1Gi', "LimitRange"),
        ('pods "x" is forbidden: error looking up service account jobs/x: serviceaccount "x" not found', "account"),
        ('admission webhook "policy.example" denied the request: no', "webhook"),
    ],
)
async def test_a_namespace_that_refuses_our_pods(kube: FakeKube, settings: Make, message: str, fix: str) -> None:
    kube.fault("create pods", status=403, message=message)
    [found] = await problems(settings())
    assert message in found.text
    assert fix in (found.fix or "")


async def test_a_template_that_breaks_the_profile_is_a_setting_to_mend(kube: FakeKube, settings: Make) -> None:
    [found] = await problems(settings(template={"spec": {"hostNetwork": True}}))
    assert found.area == "settings"
    assert "hostNetwork" in found.text
    assert kube.ledger == [] or all(dry(request) for request in kube.ledger if request.method != "GET")


@pytest.mark.parametrize("enforced", ["privileged", "baseline", "restricted"])
async def test_the_namespace_should_enforce_the_loosest_profile_in_use(
    kube: FakeKube, settings: Make, enforced: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What `longshore check` warns of, a consumer tells at its start."""
    kube.enforces = enforced
    cases: dict[str, dict[str, str]] = {"restricted": {}, "baseline": {"a": "baseline"}}
    for profile, profiles in cases.items():
        found = await check_cluster(settings(), "c", profiles)
        warnings = [f for f in found if f.level is Level.WARNING]
        loose = {"privileged": True, "baseline": profile == "restricted", "restricted": False}[enforced]
        assert [f.fix for f in warnings] == [
            f"kubectl label --overwrite namespace jobs pod-security.kubernetes.io/enforce={profile}"
        ] * loose
        caplog.clear()
        executor = KubernetesExecutor(settings(), "c", profiles.values())
        await executor.open()
        await executor.close()
        assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
            f"namespace 'jobs': {f.text}; {f.fix}" for f in warnings
        ]
    assert kube.created == []


async def test_a_job_type_whose_profile_the_namespace_refuses(kube: FakeKube, settings: Make) -> None:
    kube.enforces = "baseline"
    [found] = [
        f
        for f in await check_cluster(settings(), "c", {"app.build": "privileged", "app.x": "baseline"})
        if f.level is Level.PROBLEM
    ]
    assert found.area == "types"
    assert found.text.startswith("app.build: the namespace refuses pods with the profile privileged: ")


async def test_what_it_cant_tell_it_says_so(kube: FakeKube, settings: Make) -> None:
    kube.forbidden.add("create pods")
    found = await check_cluster(settings(), "c")
    assert [finding.level for finding in found if finding.area == "namespace"] == []
    assert "can't tell whether the namespace takes our pods" in " ".join(finding.text for finding in found)


@pytest.mark.parametrize(
    ("theirs", "level", "says"),
    [
        (1000.0, Level.GOOD, "agree"),
        (1004.9, Level.GOOD, "agree"),
        (1600.0, Level.WARNING, "599 s ahead of ours"),
        (400.0, Level.WARNING, "600 s behind ours"),
    ],
)
def test_a_clock_is_compared_with_what_could_have_been(theirs: float, level: Level, says: str) -> None:
    found = clock_finding("queue", "Redis", theirs, 1000.0, 1001.0)
    assert found.level is level
    assert says in found.text


def test_the_rights_have_no_doubles() -> None:
    assert len({str(right) for right in RIGHTS}) == len(RIGHTS)
    assert all(isinstance(right.lack, str) and right.lack for right in RIGHTS)
