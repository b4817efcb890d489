"""The comparison of used rights with the Role, and what counts as use."""

from __future__ import annotations

import json

from consumer.executors.kubernetes.rights import RIGHTS
from support.ledger import audited, difference, granted


def test_the_role_is_the_one_that_the_code_knows() -> None:
    assert granted() == {str(right) for right in RIGHTS}


def test_too_much_is_always_found_and_too_little_after_a_whole_suite() -> None:
    role = granted()
    assert difference(role, whole=True) == []
    for whole in (True, False):
        [line] = difference(role | {"get secrets"}, whole=whole)
        assert "doesn't grant 'get secrets'" in line
    [line] = difference(role - {"list events"}, whole=True)
    assert "grants 'list events', which nothing uses" in line
    assert difference(role - {"list events"}, whole=False) == []


def test_an_audit_log_is_read_as_rbac_says_it() -> None:
    def line(verb: str, uri: str, **about: str) -> bytes:
        return json.dumps({"verb": verb, "requestURI": uri, "objectRef": {"namespace": "ours"} | about}).encode()

    lines = [
        line("get", "/x?follow=true", resource="pods", subresource="log", name="p"),
        line("create", "/x?dryRun=All", resource="secrets"),
        line("delete", "/x", resource="pods", name="ls-check"),
        line("list", "/x?limit=1&labelSelector=a", resource="events"),
        line("watch", "/x?watch=true", resource="pods"),
        line("list", "/x", resource="pods", namespace="another"),
        json.dumps({"verb": "create", "requestURI": "/x", "objectRef": {"resource": "reviews"}}).encode(),
    ]
    assert audited(lines, {"ours"}) == {"get pods/log", "watch pods"}
