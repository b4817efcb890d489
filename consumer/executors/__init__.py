"""The table of executors. To add one: a file here, a line here, a parameter in its contract suite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from consumer.errors import SetupError
from consumer.ports import Executor, MeasuringQueue
from consumer.settings import Settings
from enqueue.errors import UsageError

if TYPE_CHECKING:
    from consumer.executors.kubernetes.autoscale import Autoscaler


def _process(settings: Settings) -> Executor:
    from consumer.executors.process.executor import ProcessExecutor

    return ProcessExecutor(settings.process, settings.name)


def _kubernetes(settings: Settings) -> Executor:
    try:
        from consumer.executors.kubernetes.executor import KubernetesExecutor
    except ModuleNotFoundError as error:
        raise SetupError(f"the kubernetes executor needs {error.name}: pip install 'longshore[consumer]'") from None
    return KubernetesExecutor(settings.kubernetes, settings.name, settings.profiles.values())


def _docker(settings: Settings) -> Executor:
    try:
        from consumer.executors.docker.executor import DockerExecutor
    except ModuleNotFoundError as error:
        raise SetupError(f"the docker executor needs {error.name}: pip install 'longshore[consumer]'") from None
    return DockerExecutor(settings.docker, settings.name)


def _null(settings: Settings) -> Executor:
    from consumer.executors.null import NullExecutor

    return NullExecutor()


EXECUTORS: dict[str, Callable[[Settings], Executor]] = {
    "process": _process,
    "docker": _docker,
    "kubernetes": _kubernetes,
    "null": _null,
}


def make_autoscaler(
    settings: Settings, queue: MeasuringQueue, slots: Callable[[], int], busy: Callable[[], int]
) -> Autoscaler:
    """What scales the consumers' Deployment. Raises SetupError."""
    try:
        from consumer.executors.kubernetes.autoscale import Autoscaler
    except ModuleNotFoundError as error:
        raise SetupError(f"scaling.deployment: needs {error.name}: pip install 'longshore[consumer]'") from None
    return Autoscaler(settings, queue, slots, busy)


def make_executor(settings: Settings) -> Executor:
    """The executor that the settings name. Raises UsageError with the names there are, SetupError."""
    factory = EXECUTORS.get(settings.executor)
    if factory is None:
        known = ", ".join(sorted(EXECUTORS))
        raise UsageError(f"there is no executor '{settings.executor}'; known here: {known}")
    return factory(settings)
