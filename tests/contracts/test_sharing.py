"""A producer shared with forked children, and the examples of its documentation."""

from __future__ import annotations

import ast
import os
import re
import signal
import threading
from pathlib import Path

import pytest
import redis

import enqueue
from enqueue import Job

ROOT = Path(__file__).parent.parent.parent


def test_a_forked_child_enqueues_over_connections_of_its_own(redis_url: str, redis_client: redis.Redis) -> None:
    with enqueue.connect(redis_url, queue="q") as producer:
        producer.enqueue(Job(commands=["true"]))
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    code = 0 if len(list(producer.enqueue_many([Job(commands=["true"])] * 20))) == 20 else 1
                except BaseException:
                    code = 2
                os._exit(code)
            children.append(child)
        mine = [producer.enqueue(Job(commands=["true"])).id for _ in range(20)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        assert len(set(mine)) == 20
    assert redis_client.llen("rq:queue:q") == 81


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_enqueues_enqueues_too(
    redis_url: str, redis_client: redis.Redis
) -> None:
    with enqueue.connect(redis_url, queue="q") as producer:
        producer.enqueue(Job(commands=["true"]))
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            with producer._redis.connection_pool._lock:  # as it is for a moment of each command
                held.set()
                free.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # it would wait for ever
            try:
                producer.enqueue(Job(commands=["true"]))
                producer.close()
                os._exit(0)
            finally:
                os._exit(1)
        free.set()
        holder.join()
        assert os.waitpid(child, 0)[1] == 0
        producer.enqueue(Job(commands=["true"]))
    assert redis_client.llen("rq:queue:q") == 3


def test_the_examples_of_the_docs_are_python_and_name_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/producers.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "enqueue":
                for name in node.names:
                    assert name.name == "aio" or hasattr(enqueue, name.name), name.name
