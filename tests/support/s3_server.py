"""An S3 server of this test run's own: moto's, in a thread."""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest


class S3Server:
    """Its endpoint, and what a test wants to see or break."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def make_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return name

    def deny_writes(self, bucket: str, *keys: str) -> None:
        """Objects whose keys fit these patterns are forbidden from now on."""
        resources = [f"arn:aws:s3:::{bucket}/{key}" for key in keys]
        deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": resources}
        body = json.dumps({"Version": "2012-10-17", "Statement": [deny]}).encode()
        url, headers = f"{self.endpoint}/{bucket}?policy", {"Content-Type": "application/json"}
        urlopen(Request(url, body, headers, method="PUT")).close()

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes."""
        from moto.s3 import s3_backends

        found = s3_backends["123456789012"]["aws"].get_object(bucket, key)
        assert found is not None
        data: bytes = found.value
        return data


@contextlib.contextmanager
def serving() -> Iterator[S3Server]:
    """A server on a free port, until the block is left."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of this process; each makes a bucket of its own."""
    with serving() as server:
        yield server
