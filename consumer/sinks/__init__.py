"""Where logs go, by name. To add one: a file here, a line in this table, a parameter in its contract suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from consumer.errors import SetupError
from consumer.model import Claim, LogPosition
from consumer.opslevel import is_legacy
from consumer.ports import Records, ReplyingQueue, Sink
from consumer.settings import S3, Settings
from consumer.storage_path import mark_of, path_of
from consumer.storing import Target
from enqueue.errors import LongshoreError, UsageError

if TYPE_CHECKING:
    from consumer.bucket import Bucket

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Stores:
    """What sinks are made of. `settings`: those in force now."""

    settings: Callable[[], Settings]
    records: Records
    replying: ReplyingQueue | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known when a log begins. `lagging`: a sink that may need the stream's end after a takeover is used."""

    claim: Claim
    former: LogPosition
    recorded: bool
    lagging: bool


MakeSink = Callable[[Wanted], Sink | None]


def _record(stores: Stores) -> MakeSink:
    from consumer.sinks.record import RecordSink
    from consumer.sinks.shipping import WINDOW

    def make(wanted: Wanted) -> Sink:
        most = stores.settings().logs.max_bytes
        tail = WINDOW + WINDOW // 4 if wanted.lagging else 0
        return RecordSink(stores.records, wanted.claim, max_bytes=most, start=wanted.former, tail=tail)

    return make


def _reply(stores: Stores) -> MakeSink:
    from consumer.sinks.reply import ReplySink, Shared

    shared = Shared()

    def make(wanted: Wanted) -> Sink | None:
        jobs = stores.replying.log_jobs(wanted.claim) if stores.replying is not None else None
        if jobs is None or stores.replying is None:
            return None
        interval, notices = stores.settings().faktory.log_interval, is_legacy(wanted.claim.job)
        push, start = stores.replying.push, wanted.former
        return ReplySink(push, jobs, interval=interval, start=start, shared=shared, notices=notices)

    return make


def _file(stores: Stores) -> MakeSink:
    from consumer.sinks.file import Cleaner, FileTarget
    from consumer.sinks.hand import Hand
    from consumer.sinks.shipping import Backlog, ShippingSink, Store

    store, hand, files = Store("file"), Hand("log files"), stores.settings().files
    cleaner = Cleaner(files.directory, files.max_age) if files.directory is not None else None

    def make(wanted: Wanted) -> Sink:
        settings = stores.settings()
        if files.directory is None or cleaner is None:
            raise UsageError("files.directory: is needed by the sink 'file'")
        cleaner.look()
        path = path_of(files.path, wanted.claim.queue, wanted.claim.id, wanted.claim.attempt)
        target = FileTarget(files.directory, path, hand, fresh=not wanted.former.bytes)
        backlog = Backlog(stores.records, wanted.claim) if wanted.recorded else None
        return ShippingSink(store, target, start=wanted.former, backlog=backlog, patience=settings.logs.finish)

    return make


def _console(stores: Stores) -> MakeSink:
    from consumer.sinks.console import ConsoleTarget
    from consumer.sinks.hand import Hand
    from consumer.sinks.shipping import Backlog, ShippingSink, Store

    store, hand = Store("console"), Hand("console")

    def make(wanted: Wanted) -> Sink:
        settings = stores.settings()
        target = ConsoleTarget(settings.console.format, wanted.claim, hand)
        backlog = Backlog(stores.records, wanted.claim) if wanted.recorded else None
        return ShippingSink(store, target, start=wanted.former, backlog=backlog, patience=settings.logs.finish)

    return make


def _s3(stores: Stores) -> MakeSink:
    from consumer.sinks.s3 import S3Target
    from consumer.sinks.shipping import Backlog, ShippingSink, Store

    s3 = stores.settings().s3
    store, bucket = Store("s3"), open_bucket(s3)

    def make(wanted: Wanted) -> Sink:
        whose = wanted.claim.queue, wanted.claim.id, wanted.claim.attempt
        path, mark = path_of(s3.log_path, *whose), mark_of(*whose, wanted.claim.created)
        target = S3Target(bucket, path, mark, compress=s3.gzip)
        backlog = Backlog(stores.records, wanted.claim) if wanted.recorded else None
        patience = stores.settings().logs.finish
        return ShippingSink(store, target, start=wanted.former, backlog=backlog, patience=patience)

    return make


def open_bucket(settings: S3) -> Bucket:
    """The bucket of the settings. Raises SetupError."""
    try:
        from consumer.bucket import Bucket
    except ModuleNotFoundError as error:
        raise SetupError(f"s3 needs {error.name}: pip install 'longshore[s3]'") from None
    return Bucket(settings)


def output_target(settings: Settings) -> Callable[[str], Target] | None:
    """Makes the place of a job's file, by its path; None: there is no store for them. Raises SetupError."""
    if settings.outputs.store == "s3":
        from consumer.sinks.s3 import S3Target

        bucket = open_bucket(settings.s3)
        return lambda path: S3Target(bucket, path, kind="application/octet-stream")
    if settings.outputs.store == "file" and settings.files.directory is not None:
        from consumer.sinks.file import FileTarget
        from consumer.sinks.hand import Hand

        directory, hand = settings.files.directory, Hand("outputs")
        return lambda path: FileTarget(directory, path, hand, fresh=True, whole=True)
    return None


SINKS: dict[str, Callable[[Stores], MakeSink]] = {
    "record": _record,
    "reply": _reply,
    "file": _file,
    "console": _console,
    "s3": _s3,
}
"""Name -> a function that imports the sink and returns what makes one for a log. `record` must come first."""


class SinkSet:
    """Makes a log's sinks: those that the job or the operator names, and replies where the queue wants them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._makers: dict[str, MakeSink] = {}

    def prepare(self) -> None:
        """Say at the start what can't ever work. Raises SetupError."""
        logs = self._stores.settings().logs
        for name in (*logs.sinks, *logs.allowed_sinks):
            self._maker(name)

    def __call__(self, claim: Claim, former: LogPosition) -> Sequence[Sink]:
        """The sinks of one attempt's log; `former`: how much of it a former consumer has recorded.

        What runs may have been allowed a sink that can't be had here. It goes on without that one.
        """
        asked = claim.job.logs if claim.job else None
        names = {*(self._stores.settings().logs.sinks if asked is None else asked), "reply"}
        wanted = Wanted(claim, former, recorded="record" in names, lagging="s3" in names)
        made: dict[str, Sink | None] = {}
        for name in [name for name in SINKS if name in names]:
            try:
                made[name] = self._maker(name)(wanted)
            except LongshoreError as error:
                log.warning("sink_left_out", job=claim.id, sink=name, error=str(error))
        if names - {"reply"} and not made.keys() - {"reply"}:  # its log must be somewhere
            made["record"] = self._maker("record")(wanted)
        return [sink for sink in made.values() if sink is not None]

    def _maker(self, name: str) -> MakeSink:
        if name not in self._makers:
            self._makers[name] = SINKS[name](self._stores)
        return self._makers[name]
