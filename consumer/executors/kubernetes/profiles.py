"""The security profiles: what a pod is given under each, and what of a pod goes beyond one. Pure.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from consumer.settings import Kubernetes

_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def pod_security(settings: Kubernetes) -> dict[str, Any]:
    """The pod's securityContext."""
    user = settings.run_as_user
    if settings.profile == "privileged":
        return {"runAsUser": 0, "runAsGroup": 0, "fsGroup": 0, "fsGroupChangePolicy": "OnRootMismatch"}
    shared = {
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if settings.profile == "baseline":
        return shared
    return {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user} | shared


def container_security(settings: Kubernetes) -> dict[str, Any]:
    """The securityContext of each container, the init step's too."""
    given: dict[str, Any] = {"readOnlyRootFilesystem": True} if settings.read_only else {}
    if settings.profile == "privileged":
        given["privileged"] = True
    elif settings.profile == "restricted":
        given |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return given


def violations(pod: Mapping[str, Any], profile: str) -> list[str]:
    """The fields of a pod that go beyond a profile."""
    if profile == "privileged":
        return []
    spec: Mapping[str, Any] = pod.get("spec") or {}
    found = list(_baseline(spec))
    if profile == "restricted":
        found += _restricted(spec)
    return found


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    for kind in ("initContainers", "containers"):
        for container in spec.get(kind) or ():
            yield f"spec.{kind}[{container.get('name')}]", container, container.get("securityContext") or {}


def _baseline(spec: Mapping[str, Any]) -> Iterator[str]:
    own = spec.get("securityContext") or {}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"spec.{name}"
    for volume in spec.get("volumes") or ():
        if "hostPath" in volume:
            yield f"spec.volumes[{volume.get('name')}].hostPath"
    for sysctl in own.get("sysctls") or ():
        if sysctl.get("name") not in _SYSCTLS:
            yield f"spec.securityContext.sysctls[{sysctl.get('name')}]"
    contexts = [("spec.securityContext", own)]
    for path, container, security in _containers(spec):
        contexts.append((f"{path}.securityContext", security))
        if security.get("privileged"):
            yield f"{path}.securityContext.privileged"
        if set((security.get("capabilities") or {}).get("add") or ()) - _CAPABILITIES:
            yield f"{path}.securityContext.capabilities.add"
        if security.get("procMount") not in (None, "Default"):
            yield f"{path}.securityContext.procMount"
        if any(port.get("hostPort") for port in container.get("ports") or ()):
            yield f"{path}.ports.hostPort"
        for hook in _probes(container):
            if any((hook.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
                yield f"{path}: a probe or hook with a host"
    for path, security in contexts:
        if (security.get("seccompProfile") or {}).get("type") == "Unconfined":
            yield f"{path}.seccompProfile"
        if (security.get("appArmorProfile") or {}).get("type") == "Unconfined":
            yield f"{path}.appArmorProfile"
        if (security.get("windowsOptions") or {}).get("hostProcess"):
            yield f"{path}.windowsOptions.hostProcess"
        linux = security.get("seLinuxOptions") or {}
        if linux.get("type", "") not in _SELINUX or linux.get("user") or linux.get("role"):
            yield f"{path}.seLinuxOptions"


def _probes(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    lifecycle = container.get("lifecycle") or {}
    probes = (container.get(f"{kind}Probe") for kind in ("liveness", "readiness", "startup"))
    for hook in (*probes, lifecycle.get("postStart"), lifecycle.get("preStop")):
        if hook:
            yield hook


def _restricted(spec: Mapping[str, Any]) -> Iterator[str]:
    own = spec.get("securityContext") or {}
    for volume in spec.get("volumes") or ():
        for source in volume.keys() - {"name"} - _VOLUMES - {"hostPath"}:
            yield f"spec.volumes[{volume.get('name')}].{source}"
    if own.get("runAsUser") == 0:
        yield "spec.securityContext.runAsUser"
    for path, _, security in _containers(spec):
        if security.get("runAsUser") == 0:
            yield f"{path}.securityContext.runAsUser"
        if security.get("runAsNonRoot", own.get("runAsNonRoot")) is not True:
            yield f"{path}.securityContext.runAsNonRoot"
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{path}.securityContext.allowPrivilegeEscalation"
        capabilities = security.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()) or set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"{path}.securityContext.capabilities"
        seccomp = security.get("seccompProfile") or own.get("seccompProfile") or {}
        if seccomp.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{path}.securityContext.seccompProfile"
