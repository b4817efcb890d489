"""Every row of the fault matrix has a test, and the document says which."""

from __future__ import annotations

from consumer.executors.kubernetes.manifest import build
from consumer.settings import Kubernetes
from support.kubernetes import plan_of
from support.rows import ROOT, ROWS, document, named_wrongly, proofs

WANTED = set(range(1, 74))


def test_every_row_has_a_test() -> None:
    tests = proofs()
    assert {row for row in WANTED if not tests.get(row)} == set()
    assert named_wrongly() == []


def test_no_test_names_a_row_that_is_none() -> None:
    assert set(proofs()) == set(ROWS) == WANTED


def test_the_document_is_that_of_the_tests() -> None:
    assert (ROOT / "docs" / "faults.md").read_text() == document(), "python tests/support/rows.py writes it anew"


def test_no_pod_has_a_finalizer() -> None:
    manifest = build(plan_of(), Kubernetes(image="busybox"))
    assert "finalizers" not in manifest.pod["metadata"]
