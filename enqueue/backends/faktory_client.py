"""A small client of Faktory for producers; `faktory_aio` has its asyncio twin.

What is said and how answers are read stands once, in the exchanges: generators that yield commands and are sent
replies. A client only carries bytes.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import threading
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

from enqueue.errors import ProtocolError, QueueUnavailable, UsageError
from enqueue.tls import client_context
from enqueue.wire import faktory as wire
from enqueue.wire.resp import Failed, Replies, Reply

T = TypeVar("T")
Exchange = Generator[Sequence[bytes], Sequence[Reply], T]

CONNECT_TIMEOUT = 5.0
"""Seconds until a connection must stand, handshake included."""
READ_TIMEOUT = 30.0
"""Seconds until a reply must have come."""
_CHUNK = 1000


def pushing(job: Mapping[str, Any]) -> Exchange[None]:
    """PUSH one job. Raises ProtocolError with the server's words if it refuses it."""
    (reply,) = yield [wire.push(job)]
    wire.expect_ok(reply, "the job")


def pushing_many(jobs: Sequence[Mapping[str, Any]]) -> Exchange[dict[str, str]]:
    """PUSHB in chunks of a thousand; {jid: error} of those that were refused."""
    refused: dict[str, str] = {}
    for start in range(0, len(jobs), _CHUNK):
        (reply,) = yield [wire.push_many(jobs[start : start + _CHUNK])]
        refused |= {str(jid): str(error) for jid, error in _object(reply, "the jobs").items()}
    return refused


def informing() -> Exchange[dict[str, Any]]:
    """INFO."""
    (reply,) = yield [wire.INFO]
    return _object(reply, "INFO")


def mutating(command: bytes) -> Exchange[None]:
    """A MUTATE or QUEUE command."""
    (reply,) = yield [command]
    wire.expect_ok(reply, command.split(b" ", 1)[0].decode())


def _object(reply: Reply, what: str) -> dict[str, Any]:
    if isinstance(reply, Failed):
        raise ProtocolError(f"Faktory refused {what}: {reply.text[:300]}")
    try:
        found = json.loads(reply) if isinstance(reply, (bytes, str)) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProtocolError(f"Faktory gave no readable answer to {what}")
    return found


def unreachable(address: wire.Address, error: BaseException) -> QueueUnavailable:
    """The error for a user: where and why, never a password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate isn't accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        why = f"no TLS connection: {error.reason or error}"
    elif isinstance(error, TimeoutError):
        why = "no answer in time"
    else:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return QueueUnavailable(f"Faktory at {address} can't be reached: {why}")


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer with the certificate and its name checked.

    `ca_file` (else the environment's SSL_CERT_FILE) has the certificates of an own authority. Raises UsageError if it
    can't be used.
    """
    try:
        context = client_context(ca_file)
    except OSError as error:
        why = "holds no certificates (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"ca_file: {ca_file}: {why}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class FaktoryClient:
    """A connection to Faktory for producers: made when first needed, made again once if it was lost.

    Threads may share it (one speaks at a time), and a forked child gets a connection of its own. A command whose
    reply was lost is sent again: a job may then stand in the queue twice, under the same jid.
    All methods raise QueueUnavailable (try later) and ProtocolError (the server refused it). UsageError: the URL.
    """

    def __init__(self, url: str, *, connect_timeout: float = CONNECT_TIMEOUT, timeout: float = READ_TIMEOUT) -> None:
        self.address = wire.parse_url(url)
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._fresh()

    def __repr__(self) -> str:
        return f"FaktoryClient({str(self.address)!r})"

    def push(self, job: Mapping[str, Any]) -> None:
        """Enqueue a job made by `enqueue.wire.faktory.build_job`."""
        self._run(pushing(job))

    def push_many(self, jobs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Enqueue many, a thousand in one round trip; {jid: error} of those that were refused."""
        return self._run(pushing_many(jobs))

    def info(self) -> dict[str, Any]:
        """The server's INFO: `faktory.queues` has the queues' sizes, `faktory.sets` those of the sets."""
        return self._run(informing())

    def mutate(
        self,
        command: Literal["kill", "discard", "requeue"],
        target: Literal["retries", "dead", "scheduled"],
        *,
        jid: str = "",
        jobtype: str = "",
    ) -> None:
        """Change entries of a set by jid or job type. Raises UsageError without either."""
        self._run(mutating(wire.mutate(command, target, jid=jid, jobtype=jobtype)))

    def queue(self, verb: Literal["PAUSE", "RESUME", "REMOVE"], *names: str) -> None:
        """Pause, resume or remove queues."""
        self._run(mutating(wire.queue(verb, names)))

    def close(self) -> None:
        """Say goodbye. The client may be used again."""
        with self._locked():
            if self._socket is not None:
                try:
                    self._socket.sendall(wire.END)
                except OSError:
                    pass
                self._drop()

    def __enter__(self) -> FaktoryClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _fresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._replies = Replies()
        self._got: list[Reply] = []

    def _locked(self) -> threading.Lock:
        if self._pid != os.getpid():  # a forked child: the socket and whoever held the lock are the parent's
            inherited = self._socket
            self._fresh()
            if inherited is not None:
                inherited.close()
        return self._lock

    def _run(self, exchange: Exchange[T]) -> T:
        with self._locked():
            try:
                commands = next(exchange)
                while True:
                    commands = exchange.send(self._carry(commands))
            except StopIteration as end:
                result: T = end.value
                return result

    def _carry(self, commands: Sequence[bytes]) -> list[Reply]:
        try:
            for again in (True, False):
                connected = self._connected()
                try:
                    connected.sendall(b"".join(commands))
                    return [self._receive(connected) for _ in commands]
                except ConnectionError:
                    self._drop()
                    if not again:
                        raise
            raise AssertionError("not reached")
        except OSError as error:
            self._drop()
            raise unreachable(self.address, error) from None
        except BaseException:  # half a reply may still be on its way
            self._drop()
            raise

    def _connected(self) -> socket.socket:
        if self._socket is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(0):
                return self._socket
            self._drop()  # readable while nothing was asked: the server has closed it
        address = self.address
        plain = socket.create_connection((address.host, address.port), timeout=self._connect_timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made = tls_context().wrap_socket(plain, server_hostname=address.host) if address.tls else plain
            self._replies, self._got = Replies(), []
            self._socket = made
            made.sendall(wire.hello(self._receive(made), address))
            wire.welcomed(self._receive(made), address)
            made.settimeout(self._timeout)
        except BaseException:
            self._drop()
            plain.close()
            raise
        return made

    def _receive(self, connected: socket.socket) -> Reply:
        while not self._got:
            data = connected.recv(65_536)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._got += self._replies.feed(data)
        return self._got.pop(0)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
