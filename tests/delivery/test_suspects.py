"""Decides, by a list of failures and a clock, which trace is to blame."""

from __future__ import annotations

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.delivery.suspects import (
    GUILTY,
    GUILTY_WAIT,
    LONGEST_WAIT,
    MAX_SUSPECTS,
    Suspects,
)
from langchain_mlflow_tracer.spool.rows import Lease

CONTENT = TransientExportError("choked", suspect=True)
OUTAGE = TransientExportError("no answer")


def lease(number: int) -> Lease:
    return Lease(number, f"trace {number}", b"payload")


def failed(times: int, error: TransientExportError) -> Suspects:
    """Return suspects of which trace 1 failed so often, each time before another trace was accepted."""
    suspects = Suspects()
    for _ in range(times):
        suspects.add(lease(1), error)
        suspects.accepted(now=0)
    return suspects


def test_a_trace_is_guilty_after_several_failures_while_others_were_accepted() -> None:
    suspects = failed(GUILTY - 1, CONTENT)
    suspects.add(lease(1), CONTENT)
    assert [(one.lease.id, one.reason) for one in suspects.accepted(now=0)] == [(1, "choked")]


def test_a_failure_counts_once_however_many_traces_are_accepted_after_it() -> None:
    suspects = failed(1, CONTENT)
    assert [guilty for _ in range(GUILTY) for guilty in suspects.accepted(now=0)] == []


def test_a_trace_that_fails_while_nothing_is_accepted_is_not_guilty() -> None:
    suspects = Suspects()
    for _ in range(2 * GUILTY):
        suspects.add(lease(1), CONTENT)
    assert suspects.accepted(now=0) == []


def test_a_trace_is_not_guilty_of_an_error_that_is_not_about_its_content() -> None:
    suspects = failed(2 * GUILTY, OUTAGE)
    suspects.add(lease(1), OUTAGE)
    assert suspects.accepted(now=0) == []


def test_a_trace_that_failed_once_is_sent_together_with_others_again() -> None:
    assert failed(1, CONTENT).apart() == []
    assert failed(2, CONTENT).apart() == [1]


def test_a_suspect_is_sent_again_after_a_wait_that_grows_unless_it_may_be_guilty() -> None:
    assert failed(2, CONTENT).due(GUILTY_WAIT - 1, with_open=True) == []
    assert failed(2, CONTENT).due(GUILTY_WAIT, with_open=True) == [1]
    assert failed(100, OUTAGE).due(LONGEST_WAIT - 1, with_open=True) == []
    assert failed(100, OUTAGE).due(LONGEST_WAIT, with_open=True) == [1]


def test_a_trace_whose_failure_is_open_is_sent_only_where_there_is_no_other() -> None:
    suspects = failed(2, CONTENT)
    suspects.add(lease(2), CONTENT)
    assert suspects.due(GUILTY_WAIT, with_open=True) == [1]
    assert suspects.due(0, with_open=False) == []
    assert suspects.due(0, with_open=True) == [2]


def test_no_more_than_a_number_of_suspects_are_kept() -> None:
    suspects = Suspects()
    for number in range(MAX_SUSPECTS + 1):
        suspects.add(lease(number), CONTENT)
    assert suspects.apart() == [MAX_SUSPECTS]


def test_suspects_keep_no_payload() -> None:
    suspects = failed(GUILTY - 1, CONTENT)
    suspects.add(lease(1), CONTENT)
    assert [guilty.lease.payload for guilty in suspects.accepted(now=0)] == [b""]
