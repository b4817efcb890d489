"""What `longshore audit` can find: each kind of fault, with the way out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Sort(StrEnum):
    """What is wrong with a job, or with what is kept of it."""

    LOST = "lost"
    DOUBLED = "doubled"
    ORPHANED = "orphaned"
    OVERDUE = "overdue"


class Kind(NamedTuple):
    """One kind of fault."""

    sort: Sort
    means: str
    fix: str


_RESTORED = "was the server restored, or did another program write there? "
_ENQUEUE = _RESTORED + "`longshore cancel` it and enqueue it again"
_CONSUMER = "start a consumer of this queue; one that lives takes claims over within 10 seconds"

KINDS = {
    "claim_abandoned": Kind(Sort.OVERDUE, "a claim whose consumer is gone, and which nobody has taken over", _CONSUMER),
    "claim_without_job": Kind(
        Sort.ORPHANED,
        "a claim of a job that there isn't any more, or that has another claim",
        _RESTORED + "ZREM the claim",
    ),
    "end_not_told": Kind(
        Sort.OVERDUE,
        "an outcome that is recorded, and that the queue wasn't told",
        "start a consumer of this queue; on Faktory, look whether its server takes ACK and FAIL",
    ),
    "in_two_places": Kind(
        Sort.DOUBLED,
        "a job that stands in two lists or registries of its queue, or twice in one",
        "a producer has enqueued the same id again; remove one of the entries (LREM, ZREM)",
    ),
    "queued_nowhere": Kind(Sort.LOST, "a job that counts as waiting and stands in no queue or registry", _ENQUEUE),
    "started_without_claim": Kind(Sort.LOST, "a job that counts as started, and that nobody has claimed", _ENQUEUE),
    "set_aside": Kind(
        Sort.OVERDUE,
        "a job that couldn't be claimed, since one of its keys is of a wrong type; on RQ",
        _RESTORED + "mend or delete that key, RPUSH the id to its queue and ZREM it from `longshore:aside:<queue>`",
    ),
    "key_unusable": Kind(
        Sort.OVERDUE,
        "a key of a queue, a job or a limit that is of a wrong type: what it held is gone, and its jobs may wait",
        _RESTORED + "mend or delete that key",
    ),
    "record_unfinished": Kind(
        Sort.LOST, "a job that has ended for the queue, while its Record says that it still runs", _ENQUEUE
    ),
    "running_without_pod": Kind(
        Sort.LOST,
        "a Record that says running in a pod that there isn't",
        "its consumer tells it as pod_deleted within a minute; if it doesn't, look at that consumer's log",
    ),
    "pod_without_job": Kind(
        Sort.ORPHANED,
        "a pod of this store whose job nobody knows",
        "the sweeper of a kubernetes consumer deletes it; is one running? Else `kubectl delete pod`",
    ),
    "pod_outlives_job": Kind(
        Sort.ORPHANED,
        "a pod whose job has ended",
        "the sweeper of a kubernetes consumer deletes it; is one running, and may it delete pods?",
    ),
    "two_pods": Kind(
        Sort.DOUBLED,
        "two attempts of a job run at the same time",
        "look at both logs; the attempt that the Record names counts, delete the other pod",
    ),
    "place_of_nobody": Kind(
        Sort.ORPHANED,
        "a place of a limit that is held by a job without a claim",
        "any consumer that lives frees it within 5 seconds; start one",
    ),
    "parked_uncalled": Kind(
        Sort.OVERDUE,
        "a job that waits for its limit although there is a place, and nobody calls it",
        "any consumer that lives calls it within 5 seconds; start one",
    ),
    "webhooks_overdue": Kind(
        Sort.OVERDUE, "webhooks that should have been sent a minute ago", "start a consumer on RQ; they send them"
    ),
    "key_without_ttl": Kind(
        Sort.ORPHANED, "a key of ours that stays for ever, though it belongs to something that ends", "EXPIRE it"
    ),
    "log_without_end": Kind(
        Sort.OVERDUE,
        "a job that has ended, and whose log has no end: followers wait",
        "the log's last part may be missing; look at the consumer's log at the time of the job's end",
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `subject`: a job, pod or key; `where`: its queue, namespace or key."""

    kind: str
    subject: str
    text: str = field(compare=False)

    @property
    def sort(self) -> Sort:
        """Lost, doubled, orphaned or overdue."""
        return KINDS[self.kind].sort

    @property
    def fix(self) -> str:
        """What to do."""
        return KINDS[self.kind].fix


class Held(NamedTuple):
    """A claim as the store knows it: what should run now. `pod`: where its Record says that it runs."""

    id: str
    queue: str
    namespace: str
    pod: str


@dataclass
class Looked:
    """What one look has found. `partial`: what there was too much of to look at it all."""

    faults: list[Fault] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)

    def add(self, kind: str, subject: str, text: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, subject, text))

    def count(self, what: str, number: int) -> None:
        """Note how much was looked at."""
        self.counts[what] = self.counts.get(what, 0) + number


_PAGE = """\
# longshore audit

```sh
longshore audit                  # faults, each with what to do; exits 0 if there are none, 1 if there are
longshore audit --json           # for programs: clean, faults (kind, sort, subject, text, fix), looked_at, partial
longshore audit --prometheus     # longshore_audit_faults{kind,sort} and longshore_audit_time_seconds
```

Is anything lost, doubled, orphaned or overdue? It takes the settings of `longshore run` and reads the queues \
that they name, the Records, and with `executor: kubernetes` the pods. It changes nothing: on Redis it needs \
`+@read +time +@connection` on all keys, on Kubernetes `list pods`. It exits 64 on bad usage, 69 if the queue's \
server can't be reached.

All of it moves while it is read, so it looks twice, 15 seconds apart (`--patience`), and tells only what it \
found both times. In between a consumer that lives takes claims over, frees places and calls jobs that wait by \
itself. A look reads in pages of 500; of a list, and of a kind of keys, 200,000 entries at most (`--most`). If \
there is more, the audit says so (`partial`), and calls nothing lost that may only be further behind.

It looks at claims, at jobs and where they stand, at limits, webhooks, logs and the keys' TTLs. It can't see \
what lies in Faktory's own queues and sets (its protocol lists no jobs), jobs of stock RQ workers (their \
affair), nor processes and containers.

## As an alert

With `audit.interval: 600` (`LONGSHORE_AUDIT_INTERVAL`; off by default, on in `k8s/base`) the consumers audit \
themselves: one of those that share queues, chosen by a key in Redis that it keeps, looks every ten minutes, warns in \
its log (`audit_faults`), and shows `longshore_audit_faults{kind,sort}`, `longshore_audit_partial` and \
`longshore_audit_time_seconds` on its [metrics port](metrics.md). If it ends, another one goes on. The alerts \
LongshoreJobsLostOrDoubled, LongshoreAuditFaults and LongshoreAuditOld are in \
[k8s/monitoring](../k8s/monitoring/alerts.yaml). It looks at 20,000 entries of a list at most (`audit.most`), since it \
does so beside its jobs; who has more runs the command, as a CronJob, or with `--prometheus` into the node exporter's \
folder for text files.

## What it finds

"""


def audit_page() -> str:
    """The whole of docs/audit.md."""
    lines = ["| kind | is | means | what to do |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {kind.sort} | {kind.means} | {kind.fix} |" for name, kind in KINDS.items()]
    return _PAGE + "\n".join([*lines, "", "Made from the code by `python -m enqueue.schema`.", ""])
