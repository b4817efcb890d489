"""What `docs/settings.md` holds: every setting, and what became of the flags of OpsLevel's runner."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from consumer.settings import Settings
from consumer.settings_table import Setting, all_settings

FLAGS = (
    "queue_url", "queues", "executor", "concurrency", "records_url", "no_records", "kubernetes.namespace",
    "metrics_port", "name", "log_level", "log_format",
)  # fmt: skip
"""Settings that have a flag of `longshore run`, `--` and their name with dashes."""

_HEAD = """\
# Settings

All settings of `longshore run`, `test`, `check` and `audit`. The first source that names a setting wins:

1. a flag of the command line, where there is one;
2. the environment variable;
3. the YAML file, `longshore.yaml` in the working directory or the one named by `--config`:

```yaml
queue_url: redis://redis.example:6379/0
queues: [critical, default]
concurrency: 50
executor: kubernetes
kubernetes:
  namespace: longshore-jobs
  allowed_images: ["ghcr.io/my-company/*"]
```

A name with a dot is a key in a section of the file. Lists and maps are JSON in the environment, such as \
`LONGSHORE_KUBERNETES_ALLOWED_IMAGES='["ghcr.io/my-company/*"]'`; `queues` is text with commas in any source. What is \
no setting is refused with the nearest name, in the file and in the environment; so is a value of the wrong kind. \
`longshore check` tries all of it without running anything.

## Change them without a restart

`kill -HUP` has a consumer read its settings again; with `reload_interval` it looks at the file by itself, which is \
what a ConfigMap wants. Settings with "yes" under *reload* then hold for jobs that begin later; those that run go on \
with what they began with. If any other one has changed, or the file is wrong, the consumer's log names it, nothing \
is changed, and the consumer goes on with the settings that it has. `queues` may change their order and weights; \
other queues need a restart.

"""

OPSLEVEL = (
    ("--config", "", "`--config`; never made if it isn't there"),
    (
        "--api-url, --api-token",
        "OPSLEVEL_API_URL, OPSLEVEL_API_TOKEN",
        "none: there is no control plane, jobs come from [queue_url]",
    ),
    ("--log-format", "OPSLEVEL_LOG_FORMAT", "[log_format]: `console` for TEXT, `json`"),
    ("--log-level", "OPSLEVEL_LOG_LEVEL", "[log_level], lower case"),
    ("--job-pod-max-wait", "OPSLEVEL_JOB_POD_MAX_WAIT", "[jobs.start_timeout], or the job's own `start_timeout`"),
    ("--job-pod-exec-max-wait", "", "none: nothing is executed in a pod from outside"),
    ("--job-pod-max-lifetime", "OPSLEVEL_JOB_POD_MAX_LIFETIME", "[jobs.timeout], or the job's own `timeout`"),
    ("--job-pod-namespace", "OPSLEVEL_JOB_POD_NAMESPACE", "[kubernetes.namespace]"),
    ("--job-pod-requests-...", "", "[kubernetes.requests], or the job's own `resources`"),
    ("--job-pod-limits-...", "", "[kubernetes.limits]; the most that a job may ask for: [kubernetes.limits_max]"),
    ("--job-pod-shell", "OPSLEVEL_JOB_POD_SHELL", "the job's `shell`"),
    ("--job-pod-workdir", "OPSLEVEL_JOB_POD_WORKDIR", "the job's `workdir`; of its own if not given"),
    (
        "--job-pod-log-max-interval",
        "OPSLEVEL_JOB_POD_LOG_MAX_INTERVAL",
        "[faktory.log_interval] for reply jobs, [logs.interval] for the log in Redis",
    ),
    (
        "--job-pod-log-max-size",
        "OPSLEVEL_JOB_POD_LOG_MAX_SIZE",
        "none: parts are cut by themselves. All of a log: [logs.max_bytes]",
    ),
    (
        "--job-agent-mode",
        "OPSLEVEL_JOB_AGENT_MODE",
        "[kubernetes.profile] `privileged`, better for one type in [job_types]",
    ),
    ("--job-pod-helper-image", "OPSLEVEL_JOB_POD_HELPER_IMAGE", "none: pods have no helper"),
    ("--queue", "OPSLEVEL_QUEUE", "[queues]"),
    (
        "--k8s-api-qps, --k8s-api-burst",
        "OPSLEVEL_K8S_API_QPS, OPSLEVEL_K8S_API_BURST",
        "[kubernetes.rate], [kubernetes.create_rate]",
    ),
    ("--scaling-enabled", "SCALING_ENABLED", "[scaling.deployment] being set"),
    ("--job-concurrency-factor", "", "[scaling.utilization]: 80 % is 0.8"),
    (
        "--runner-deployment, --runner-min-replicas, --runner-max-replicas",
        "RUNNER_...",
        "[scaling.deployment], [scaling.min], [scaling.max]",
    ),
    ("--runner-pod-name", "RUNNER_POD_NAME", "[name]"),
    ("--runner-pod-namespace", "RUNNER_POD_NAMESPACE", "[scaling.namespace]"),
    ("--mode", "", "the scheme of [queue_url]"),
    ("--queues", "", "[queues], with commas, in order or by weight"),
    ("--job-concurrency", "", "[concurrency]"),
    ("--poll-interval", "", "none: nothing is polled"),
    ("--metrics-port", "", "[metrics_port]"),
    ("--log-max-bytes, --log-max-time", "", "none: it never reads them"),
    (
        "annotations, nodeSelector, serviceAccountName (file)",
        "",
        "[kubernetes.annotations], [kubernetes.node_selector], [kubernetes.service_account]",
    ),
    ("pullPolicy, dnsPolicy (file)", "", "[kubernetes.image_pull_policy], [kubernetes.dns_policy]"),
    ("terminationGracePeriodSeconds (file)", "", "[jobs.grace], or the job's own `grace`"),
    ("securityContext (file)", "", "[kubernetes.profile], [kubernetes.run_as_user], for more [kubernetes.template]"),
    ("", "FAKTORY_URL, FAKTORY_PROVIDER", "the same, if nothing names [queue_url]"),
    ("", "KUBECONFIG", "the same, or [kubernetes.kubeconfig]"),
)
"""Flags and keys of its YAML file, its environment, and what became of them; [name] is a setting of ours."""


def settings_page() -> str:
    """The whole page. Raises KeyError if the table of OpsLevel's flags names a setting that there isn't."""
    known = {setting.name: setting for setting in all_settings(Settings)}
    lines = [_HEAD, "## All settings", "", *_table(known.values())]
    lines += ["", "## From OpsLevel's runner", "", "How to come over is in [migration.md](migration.md).", ""]
    lines += ["| its flag, or key of its file | its environment | here |", "|---|---|---|"]
    for flag, variable, became in OPSLEVEL:
        flags = ", ".join(f"`{part}`" for part in flag.split(", ") if part)
        lines.append(f"| {flags} | {f'`{variable}`' if variable else ''} | {_linked(became, known)} |")
    return "\n".join([*lines, "", "Made from the code by `python -m enqueue.schema`.", ""])


def _table(settings: Iterable[Setting]) -> Iterator[str]:
    yield "| setting | environment, flag | type | default | unit | reload | meaning |"
    yield "|---|---|---|---|---|---|---|"
    for setting in settings:
        flag = f" `--{re.sub('[._]', '-', setting.name)}`" if setting.name in FLAGS else ""
        cells = (
            f"`{setting.name}`",
            f"`{setting.variable}`{flag}",
            setting.type,
            setting.default,
            setting.unit,
            "yes" if setting.reloadable else "",
            setting.description.replace("|", "\\|"),
        )
        yield f"| {' | '.join(cells)} |"


def _linked(text: str, known: dict[str, Setting]) -> str:
    return re.sub(r"\[([a-z_.]+)\](?!\()", lambda match: f"`{known[match[1]].name}`", text)
