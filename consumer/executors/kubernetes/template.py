"""The operator's pod template: read, checked, and merged into a job's pod as `kubectl patch` would.

The template wins over what the job and the settings say, but for what makes a pod ours: that it may not name. Where
Kubernetes merges lists by a key (containers by name, mounts by path, ...) so do we; null deletes a field. Containers
called `main` and `init` are merged into ours, others are added: beside the main one, or before the init step.
Source: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from consumer.errors import SetupError, Unrunnable
from consumer.executors import names
from consumer.executors.kubernetes.outputs import COLLECTOR, VOLUME
from consumer.settings import Kubernetes
from enqueue.closed import kind_of
from enqueue.errors import UsageError
from enqueue.files import load_yaml
from enqueue.images import parse_image
from enqueue.record import Reason

MAX_BYTES, MAX_DEPTH = 256 * 1024, 32
_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
    "volumeDevices": "devicePath", "ports": "containerPort", "imagePullSecrets": "name", "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey", "resourceClaims": "name", "sysctls": "name",
}  # fmt: skip
"""Lists whose items are merged by this key."""
_ADDED = {"tolerations", "envFrom", "preferredDuringSchedulingIgnoredDuringExecution"}
"""Lists that are added to."""
_OBJECTS = {
    "securityContext", "capabilities", "seccompProfile", "appArmorProfile", "seLinuxOptions", "windowsOptions",
    "lifecycle", "postStart", "preStop", "livenessProbe", "readinessProbe", "startupProbe", "httpGet", "tcpSocket",
    "affinity", "nodeAffinity", "resources", "limits", "requests", "nodeSelector",
}  # fmt: skip
_NEEDED = {"containers", "initContainers", "volumes", "env", "volumeMounts"}
"""Lists in which the job has something of its own."""
_TEXTS = {"add", "drop"}
_WHOLE = {"volumes", "env"}
"""Lists whose items replace each other as a whole: they hold one of many sources."""
_SPEC = {
    "restartPolicy": "a job's pod never restarts",
    "activeDeadlineSeconds": "set jobs.timeout",
    "terminationGracePeriodSeconds": "set jobs.grace",
    "nodeName": "it would pass by the scheduler; use nodeSelector or affinity",
    "schedulingGates": "nobody would lift them",
    "ephemeralContainers": "no new pod has them",
    "serviceAccountName": "set kubernetes.service_account",
    "serviceAccount": "set kubernetes.service_account",
    "automountServiceAccountToken": "set kubernetes.service_account_token",
}
_OURS = {
    "image": "the job names it",
    "command": "the job names it",
    "args": "the job names it",
    "workingDir": "the job names it",
    "imagePullPolicy": "set kubernetes.image_pull_policy",
    "restartPolicy": "a job's step never restarts",
    "terminationMessagePath": "the outcome is read from there",
    "terminationMessagePolicy": "the outcome is read from there",
    "stdin": "nobody writes to a job",
    "tty": "the log is read line by line",
}
_OF_ONE_POD = {"emptyDir", "ephemeral"}
"""Sources of volumes that no two pods have in common."""
_STEPS = {"containers": "main", "initContainers": "init"}

Object = dict[str, Any]


def template_of(settings: Kubernetes) -> Object:
    """The template as {metadata, spec}, empty if there is none. A file is read once.

    Raises SetupError that names the file and the field.
    """
    if settings.template is None:
        return {}
    if isinstance(settings.template, Path):
        found: Object = _read(settings.template)
        return found
    return _checked(settings.template, "kubernetes.template")


def merged(pod: Object, template: Object, security: Object) -> Object:
    """The pod with the template merged into it; neither is changed. `security` is of containers that set none.

    Raises Unrunnable if the job and the template want the same place.
    """
    if not template:
        return pod
    template = copy.deepcopy(template)
    spec = template.get("spec") or {}
    for kind, ours in _STEPS.items():
        for container in spec.get(kind, ()):
            if container["name"] != ours and security:
                container["securityContext"] = security | (container.get("securityContext") or {})
    steps = {container["name"] for container in pod["spec"].get("initContainers", ())}
    inits = [item for item in spec.get("initContainers", ()) if item["name"] != "init" or "init" in steps]
    if inits:
        spec["initContainers"] = inits
    else:
        spec.pop("initContainers", None)
    done = _merge(pod, template)
    found = done["spec"].get("initContainers", [])
    if found:
        done["spec"]["initContainers"] = sorted(found, key=lambda container: container["name"] == "init")
    _same(pod, done)
    assert isinstance(done, dict)
    return done


def _same(pod: Object, done: Object) -> None:
    """What makes the pod ours is still there: a second look, whatever the template's own check has let through."""
    if any(pod["spec"].get(name) != done["spec"].get(name) for name in _SPEC) or any(
        done["metadata"][kind].get(key) != value
        for kind in ("labels", "annotations")
        for key, value in pod["metadata"][kind].items()
        if key == names.MANAGED_BY or key.startswith("longshore.dev/")
    ):
        raise Unrunnable("the operator's pod template changes what the pod is known by", Reason.REFUSED)
    for kind, step in _STEPS.items():
        ours = next((item for item in pod["spec"].get(kind, ()) if item["name"] == step), None)
        if ours is None:
            continue
        theirs = next(item for item in done["spec"][kind] if item["name"] == step)
        if any(ours.get(name) != theirs.get(name) for name in _OURS):
            raise Unrunnable(f"the operator's pod template changes what the step {step} runs", Reason.REFUSED)
        for mount in ours["volumeMounts"]:
            what = mount["name"]
            if what in ("files", VOLUME) and mount not in theirs["volumeMounts"]:
                said = f"{what}: the operator's pod template mounts something else at {mount['mountPath']}"
                raise Unrunnable(said, Reason.REFUSED)


def _merge(base: Any, patch: Any, key: str = "") -> Any:
    if isinstance(base, dict) and isinstance(patch, dict):
        done: Object = dict(base)
        for name, value in patch.items():
            if value is None:
                done.pop(name, None)
            else:
                done[name] = _merge(done.get(name), value, name)
        return done
    if isinstance(patch, list):
        return _merge_lists(base or [], patch, key)
    if isinstance(patch, dict):
        return _merge({}, patch, key)
    return patch


def _merge_lists(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    if key in _ADDED:
        return [*base, *(item for item in patch if item not in base)]
    if key not in _KEYS:
        return patch
    by = _KEYS[key]
    done = {item[by]: item for item in base}
    for item in patch:
        old = done.get(item[by])
        if old is None or (key in _WHOLE and not old.keys() & item.keys() - {by}):
            old = {}
        done[item[by]] = _merge(old, item, "")
    return list(done.values())


@lru_cache(4)
def _read(path: Path) -> Object:
    where = f"kubernetes.template: {path}"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SetupError(f"{where}: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise SetupError(f"{where}: is {len(raw):,} bytes long; at most {MAX_BYTES:,} are read")
    try:
        return _checked(load_yaml(raw, where), where)
    except UsageError as error:
        raise SetupError(str(error)) from None


def _checked(given: Any, where: str) -> Object:
    if not isinstance(given, Mapping):
        raise SetupError(f"{where}: must be a Pod or a PodTemplate, not {kind_of(given)}")
    document: Any = dict(given)
    document.pop("apiVersion", None)
    kind = document.pop("kind", "Pod")
    if kind not in ("Pod", "PodTemplate"):
        raise SetupError(f"{where}: kind: must be Pod or PodTemplate, not {kind}")
    if kind == "PodTemplate":
        document = document.get("template") or {}
        if not isinstance(document, dict):
            raise SetupError(f"{where}: template: must be an object, not {kind_of(document)}")
    problem = next(iter(_problems(document)), None)
    if problem is not None:
        raise SetupError(f"{where}: {problem}")
    return {part: document[part] for part in ("metadata", "spec") if document.get(part)}


def _problems(document: Object) -> Iterator[str]:
    yield from _shape(document, "", 0)
    for name in document.keys() - {"metadata", "spec"}:
        yield f"{name}: isn't read; a template has metadata and spec"
    for part in ("metadata", "spec"):
        if not isinstance(document.get(part), dict | None):
            yield f"{part}: must be an object, not {kind_of(document[part])}"
            return
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    yield from _metadata(metadata)
    for name in spec:
        if name in _SPEC:
            yield f"spec.{name}: can't be set by a template: {_SPEC[name]}"
    for kind, ours in _STEPS.items():
        yield from _containers(spec, kind, ours)
    for i, volume in enumerate(_list(spec, "volumes")):
        if volume.get("name") == "files":
            yield f"spec.volumes[{i}].name: files is the job's own; choose another name"
        elif volume.get("name") == VOLUME and volume.keys() - {"name"} - _OF_ONE_POD:
            yield f"spec.volumes[{i}].name: {VOLUME} has what a job hands over, and no other pod's; choose another name"


def _shape(value: Any, path: str, depth: int) -> Iterator[str]:
    """What merging relies on: keys that are text, lists of objects with their merge keys, no patch directives."""
    if depth > MAX_DEPTH:
        yield f"{path}: is nested too deeply"
    elif isinstance(value, dict):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            if not isinstance(key, str) or key.startswith("$"):
                yield f"{here}: isn't read here; null deletes a field"
                return
            if key in _KEYS and isinstance(inner, list) and path.startswith("spec"):
                yield from _items(inner, here, _KEYS[key])
            elif key in _NEEDED and path.startswith("spec") and inner is None:
                yield f"{here}: must be a list; the job needs its own"
            elif key in (*_KEYS, *_ADDED, *_TEXTS) and path.startswith("spec") and not isinstance(inner, list | None):
                yield f"{here}: must be a list, not {kind_of(inner)}"
            elif key in _TEXTS and path.startswith("spec") and not all(isinstance(item, str) for item in inner or ()):
                yield f"{here}: must be a list of texts"
            elif key in _OBJECTS and path.startswith("spec") and not isinstance(inner, dict | None):
                yield f"{here}: must be an object, not {kind_of(inner)}"
            yield from _shape(inner, here, depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _shape(inner, f"{path}[{i}]", depth + 1)


def _items(items: list[Any], path: str, by: str) -> Iterator[str]:
    seen = set()
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            yield f"{path}[{i}]: must be an object, not {kind_of(item)}"
        elif not isinstance(item.get(by), str | int):
            yield f"{path}[{i}].{by}: is required"
        elif item[by] in seen:
            yield f"{path}[{i}].{by}: {item[by]} is given twice"
        else:
            seen.add(item[by])


def _metadata(metadata: Object) -> Iterator[str]:
    for name, values in metadata.items():
        if name not in ("labels", "annotations"):
            yield f"metadata.{name}: can't be set by a template; it may have labels and annotations"
        elif not isinstance(values, dict | None):
            yield f"metadata.{name}: must be an object, not {kind_of(values)}"
        elif values is None:
            yield f"metadata.{name}: must be an object, not null"
        for key, value in (values if isinstance(values, dict) else {}).items():
            if key == names.MANAGED_BY or key.partition("/")[0] == "longshore.dev":
                yield f"metadata.{name}.{key}: is longshore's own"
            elif not isinstance(value, str | None):
                yield f"metadata.{name}.{key}: must be text, not {kind_of(value)}; put it in quotes"


def _containers(spec: Object, kind: str, ours: str) -> Iterator[str]:
    theirs = next(name for name in _STEPS.values() if name != ours)
    for i, container in enumerate(_list(spec, kind)):
        path = f"spec.{kind}[{i}]"
        if container.get("name") == COLLECTOR:
            yield (
                f"{path}.name: {COLLECTOR} is longshore's own, which hands over a job's outputs; choose another name "
                "(kubernetes.outputs_image sets its image)"
            )
            continue
        if container.get("name") == theirs:
            other = next(key for key, name in _STEPS.items() if name == theirs)
            yield f"{path}.name: {theirs} belongs to {other}"
        elif container.get("name") != ours:
            if not container.get("image"):
                yield f"{path}.image: is required for a container of the template's own"
            else:
                yield from _image(container["image"], path)
            continue
        for name in container:
            if name in _OURS:
                yield f"{path}.{name}: can't be set for {ours}: {_OURS[name]}"
        for j, variable in enumerate(_list(container, "env")):
            if str(variable.get("name")).startswith("LONGSHORE_"):
                yield f"{path}.env[{j}].name: LONGSHORE_... is set by longshore"


def _image(given: Any, path: str) -> Iterator[str]:
    if not isinstance(given, str):
        yield f"{path}.image: must be text, not {kind_of(given)}"
        return
    try:
        parse_image(given)
    except ValueError as error:
        yield f"{path}.image: {error}"


def _list(holder: Object, name: str) -> list[Object]:
    found = holder.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
