"""Several queues: strict, or by weight."""

from __future__ import annotations

from collections import Counter

import pytest

from consumer.queue_order import QueueOrder
from consumer.settings import load_settings
from enqueue import UsageError


def test_without_weights_the_order_is_strict() -> None:
    order = QueueOrder.of(["high", "low=x", "odd=", "=3"])
    assert order.drawn() == tuple(order) == ("high", "low=x", "odd=", "=3")
    assert order.draws(5) == []
    assert len(order) == 4


def test_weights_decide_who_is_asked_first_and_nobody_is_left_out() -> None:
    order = QueueOrder.of(["a=5", "b=1"])
    draws = [order.drawn() for _ in range(6000)]
    assert {frozenset(draw) for draw in draws} == {frozenset({"a", "b"})}
    assert 4700 < sum(draw[0] == "a" for draw in draws) < 5300  # of 5000; ten standard deviations to either side
    assert 4700 < Counter(order.draws(6000))["a"] < 5300


@pytest.mark.parametrize(
    ("queues", "says"),
    [
        ("a=5,b", "'b' has no weight"),
        ("a=0,b=1", "'a=0': a weight is a whole number from 1 to 1000"),
        ("a=-1", "'a=-1': a weight"),
        ("a=1001", "'a=1001': a weight"),
        ("a,a", "'a' is named twice"),
        ("a=1,a=2", "'a' is named twice"),
    ],
)
def test_what_cant_be_meant_is_a_sentence(queues: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"queues.*{says}"):
        load_settings(queues=queues)


def test_settings_keep_what_was_written_and_say_what_it_means() -> None:
    settings = load_settings(queues="a=5, b=1")
    assert settings.queues == ("a=5", "b=1")
    assert (settings.order.names, settings.order.weights) == (("a", "b"), (5, 1))


def test_callbacks_never_go_to_a_queue_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSHORE_RQ_CALLBACK_QUEUE", "b")
    assert load_settings(queues="a").rq.callback_queue == "b"
    with pytest.raises(UsageError, match="callback_queue: must be a queue of stock RQ workers"):
        load_settings(queues="a,b=c,b")


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        ("*", "hooks.example.org", True),
        ("", "hooks.example.org", False),
        ("hooks.example.org, *.internal", "a.internal", True),
        ("hooks.example.org, *.internal", "HOOKS.example.org", True),
        ("hooks.example.org, *.internal", "169.254.169.254", False),
    ],
)
def test_the_operator_says_which_hosts_webhooks_may_go_to(allowed: str, host: str, may: bool) -> None:
    assert load_settings(rq={"webhooks": allowed}).rq.may_call(host) is may
