"""The command `longshore`. What runs or looks at jobs itself is in the extra `consumer`, loaded when called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from enqueue.cli_logs import logs, print_log
from enqueue.cli_options import FileOption, JobId, JsonFlag, QueueUrl, RecordsUrl, producer_at
from enqueue.cli_outputs import outputs
from enqueue.cli_seal import SealKey, keygen, seal
from enqueue.errors import InvalidJob, LongshoreError, QueueUnavailable, UsageError

OK, FAILED, USAGE, UNAVAILABLE, UNWRITTEN, TIMEOUT, INFRASTRUCTURE = 0, 1, 64, 69, 74, 124, 125
"""Exit codes: usage, unavailable and an output that can't be written as in sysexits.h, time-out as timeout(1),
infrastructure as docker run."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="longshore",
    help="Run jobs from Faktory and RQ as Kubernetes pods or local processes, and get their outcomes back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def longshore() -> None:
    """Commands are commands, even if there is only one."""


_BAD_USAGE: Any = typer.BadParameter.__base__
"""What the command line raises for options that it doesn't know; typer keeps the class to itself."""

app.command()(keygen)
app.command()(seal)
app.command()(logs)
app.command()(outputs)


@app.command()
def enqueue(
    file: FileOption,
    queue: Annotated[str, typer.Option("--queue", "-q", help="The queue to put it on.")] = "default",
    queue_url: QueueUrl = None,
    records_url: RecordsUrl = None,
    job_id: Annotated[str | None, typer.Option("--id", help="The job's id, if it shall not be a random one.")] = None,
    key: Annotated[str | None, typer.Option(help="The same key is the same job, for as long as it is kept.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds before which it doesn't start.")] = None,
    at_front: Annotated[bool, typer.Option("--at-front", help="Before all that waits in the queue (RQ).")] = False,
    seal: SealKey = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the job's log, and exit as `longshore wait` does.")
    ] = False,
) -> None:
    """Put a job on a queue and print its id."""
    from enqueue.files import load_job

    with producer_at(queue_url, records_url) as producer:
        job = load_job(file) if seal is None else load_job(file).seal(seal)
        handle = producer.enqueue(job, queue=queue, job_id=job_id, key=key, delay=delay, at_front=at_front)
        print(handle.id, flush=True)
        if follow:
            print_log(handle, follow=True)
            _exit_as(_wait(handle, None))


@app.command()
def show(job_id: JobId, queue_url: QueueUrl = None, records_url: RecordsUrl = None, as_json: JsonFlag = False) -> None:
    """Print all that is known of a job."""
    with producer_at(queue_url, records_url) as producer:
        record = producer.handle(job_id).record
    if as_json:
        print(json.dumps(record.model_dump(mode="json", exclude_none=True)))
        return
    from enqueue.show import print_record

    print_record(record)


@app.command()
def wait(
    job_id: JobId,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Give up after so many seconds, with exit code 124.")
    ] = None,
    queue_url: QueueUrl = None,
    records_url: RecordsUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Wait until a job has ended; exits 0 if it succeeded, else with its exit code (1 if it has none)."""
    with producer_at(queue_url, records_url) as producer:
        outcome = _wait(producer.handle(job_id), timeout)
    if as_json:
        print(json.dumps(outcome.model_dump(mode="json", exclude_none=True)))
    else:
        from enqueue.show import print_outcome

        print_outcome(outcome)
    _exit_as(outcome)


@app.command("list")
def list_jobs(
    tag: Annotated[str | None, typer.Option(help="Jobs with this tag, the newest first.")] = None,
    status: Annotated[str | None, typer.Option(help="Only those that are queued, running, failed and so on.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only those of this queue.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    queue_url: QueueUrl = None,
    records_url: RecordsUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """List jobs by tag, or on RQ those of a queue, with their status."""
    with producer_at(queue_url, records_url) as producer:
        records = producer.jobs(tag=tag, status=status, queue=queue, limit=limit)
    if as_json:
        print(json.dumps([record.model_dump(mode="json", exclude_none=True) for record in records]))
        return
    from enqueue.show import print_list

    print_list(records)


@app.command()
def explain(
    job_id: JobId, queue_url: QueueUrl = None, records_url: RecordsUrl = None, as_json: JsonFlag = False
) -> None:
    """Say why a job isn't running, or why it failed."""
    with producer_at(queue_url, records_url) as producer:
        found = producer.handle(job_id).explain()
    print(json.dumps(found.as_dict()) if as_json else found.text)


@app.command()
def cancel(job_id: JobId, queue_url: QueueUrl = None, records_url: RecordsUrl = None) -> None:
    """Cancel a job: a queued one never starts, a running one is told to stop."""
    with producer_at(queue_url, records_url) as producer:
        if not producer.handle(job_id).cancel():
            print("the job has ended already", file=sys.stderr)
            raise typer.Exit(FAILED)


@app.command()
def run(
    queue_url: Annotated[str | None, typer.Option(help="The queue's server; see `longshore enqueue`.")] = None,
    queues: Annotated[str | None, typer.Option(help="Queues with commas between them, the first one first.")] = None,
    executor: Annotated[str | None, typer.Option(help="process, kubernetes or null.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at a time.")] = None,
    records_url: Annotated[str | None, typer.Option(help="Redis for the Records of Faktory's jobs.")] = None,
    no_records: Annotated[bool | None, typer.Option("--no-records", help="Faktory without Records.")] = None,
    kubernetes_namespace: Annotated[str | None, typer.Option(help="Namespace of the jobs' pods.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics here.")] = None,
    name: Annotated[str | None, typer.Option(help="This consumer's name.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with settings; longshore.yaml if there is one.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
) -> None:
    """Run jobs from a queue until told to stop. All settings are in the docs; each has an environment variable."""
    flags: dict[str, Any] = {
        "queue_url": queue_url,
        "queues": queues,
        "executor": executor,
        "concurrency": concurrency,
        "records_url": records_url,
        "no_records": no_records,
        "metrics_port": metrics_port,
        "name": name,
        "log_level": log_level,
        "log_format": log_format,
    }
    if kubernetes_namespace is not None:
        flags["kubernetes"] = {"namespace": kubernetes_namespace}
    _consumer().run(config, **flags)


@app.command("test")
def run_file(
    file: FileOption,
    executor: Annotated[str, typer.Option(help="process, kubernetes or null.")] = "process",
    kubernetes_namespace: Annotated[str | None, typer.Option(help="Namespace of the job's pod.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the Record as JSON at the end, the log to standard error.")
    ] = False,
) -> None:
    """Run one job here and now. Exits with its code; 124: time-out, 125: infrastructure, 64: bad usage."""
    from enqueue.files import load_job

    flags: dict[str, Any] = {"executor": executor}
    if kubernetes_namespace is not None:
        flags["kubernetes"] = {"namespace": kubernetes_namespace}
    raise typer.Exit(_consumer().test(load_job(file), config, as_json, **flags))


@app.command()
def check(
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Print what this job would become; needs no server.")
    ] = None,
    queue_url: Annotated[str | None, typer.Option(help="The queue's server; see `longshore enqueue`.")] = None,
    queues: Annotated[str | None, typer.Option(help="Queues with commas between them.")] = None,
    executor: Annotated[str | None, typer.Option(help="process, kubernetes or null.")] = None,
    records_url: Annotated[str | None, typer.Option(help="Redis for the Records of Faktory's jobs.")] = None,
    no_records: Annotated[bool | None, typer.Option("--no-records", help="Faktory without Records.")] = None,
    kubernetes_namespace: Annotated[str | None, typer.Option(help="Namespace of the jobs' pods.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what is wrong with a set-up before it bites, or print the pod that a job would become, secrets hidden.

    Takes the settings of `longshore run` and changes nothing. Exits 0 if all is sound (warnings don't count), 1 if
    there is a problem or the job would be refused, 64 on bad usage.
    """
    from enqueue.files import load_job

    flags: dict[str, Any] = {
        "queue_url": queue_url,
        "queues": queues,
        "executor": executor,
        "records_url": records_url,
        "no_records": no_records,
    }
    if kubernetes_namespace is not None:
        flags["kubernetes"] = {"namespace": kubernetes_namespace}
    job = load_job(file) if file is not None else None
    raise typer.Exit(_consumer().check(job, config, as_json, **flags))


@app.command()
def audit(
    queue_url: Annotated[str | None, typer.Option(help="The queue's server; see `longshore enqueue`.")] = None,
    queues: Annotated[str | None, typer.Option(help="Queues with commas between them.")] = None,
    executor: Annotated[str | None, typer.Option(help="kubernetes: its pods are looked at too.")] = None,
    records_url: Annotated[str | None, typer.Option(help="Redis for the Records of Faktory's jobs.")] = None,
    kubernetes_namespace: Annotated[str | None, typer.Option(help="Namespace of the jobs' pods.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds between two looks: what is told was so in both. 0: one look.")
    ] = 15,
    most: Annotated[int, typer.Option(min=1, help="Entries of a list, and keys, that are looked at.")] = 200_000,
    as_json: JsonFlag = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print metrics in Prometheus' text format.")] = False,
) -> None:
    """Say whether anything is lost, doubled, orphaned or overdue, and what to do about it. Changes nothing.

    Takes the settings of `longshore run`. Exits 0 if nothing is, 1 if something is, 64 on bad usage, 69 if the queue's
    server can't be reached.
    """
    flags: dict[str, Any] = {
        "queue_url": queue_url,
        "queues": queues,
        "executor": executor,
        "records_url": records_url,
    }
    if kubernetes_namespace is not None:
        flags["kubernetes"] = {"namespace": kubernetes_namespace}
    form = "json" if as_json else "prometheus" if prometheus else "text"
    raise typer.Exit(_consumer().audit(config, patience, most, form, **flags))


@app.command()
def demo() -> None:
    """Show it all in half a minute: a private server, a consumer, four jobs."""
    raise typer.Exit(_consumer().demo())


def _consumer() -> Any:
    try:
        return importlib.import_module("consumer.cli")
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("consumer", "enqueue"):
            raise
        raise UsageError(f"this command needs {error.name}: pip install 'longshore[consumer]'") from None


def _wait(handle: Any, timeout: float | None) -> Any:
    """Waits, with a bar for people's eyes if the job tells its progress."""
    if not sys.stderr.isatty():
        return handle.wait(timeout)
    from enqueue.show import Bar

    with Bar() as bar:
        return handle.wait(timeout, seen=bar.show)


def _exit_as(outcome: Any) -> NoReturn:
    raise typer.Exit(OK if outcome.succeeded else outcome.exit_code or FAILED)


def main() -> None:
    """Run the command. A user's mistake is a sentence and an exit code, never a stack trace."""
    _make_only(sys.argv[1:2])
    code: Any = FAILED
    try:
        code = app(standalone_mode=False)
    except _BAD_USAGE as error:
        error.show()
        code = USAGE
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except (UsageError, InvalidJob) as error:
        code = _say(error, USAGE)
    except QueueUnavailable as error:
        code = _say(error, UNAVAILABLE)
    except TimeoutError as error:
        code = _say(error, TIMEOUT)
    except LongshoreError as error:
        code = _say(error, INFRASTRUCTURE if type(error).__module__ == "consumer.errors" else FAILED)
    except SystemExit as end:  # typer makes 1 of a reader that is gone, which is what a damaged log is told by
        code = 141 if isinstance(end.__context__, BrokenPipeError) else end.code
    except OSError as error:
        if error.errno not in _FULL:
            raise
        code = _say(error, UNWRITTEN)
    if code in (141, UNWRITTEN):
        with contextlib.suppress(OSError):
            sys.stdout.close()
    sys.exit(code if isinstance(code, int) else OK)


def _make_only(named: list[str]) -> None:
    """Make no other command than the one that is called, if there is such a one: each takes some milliseconds."""
    called = [
        each for each in app.registered_commands if [each.name or getattr(each.callback, "__name__", "")] == named
    ]
    if called:
        app.registered_commands = called


def _say(error: Exception, code: int) -> int:
    print(f"longshore: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
