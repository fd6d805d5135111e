"""Feeds the recorder runs in every order, with clocks that it is given."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, Status, TraceRecord
from langchain_mlflow_tracer.recording.endings import LOST, UNFINISHED, Failure
from langchain_mlflow_tracer.recording.recorder import Recorder
from tests.support.fakes import FakeClock


class Held:
    """What everybody holds who may end a run."""


class Gathering:
    """What is known of a run that has not ended."""

    def fill(self, span: SpanRecord) -> None:
        span.outputs = "so far"


class Recording:
    """A recorder with clocks that stand still, and what it handed over and counted."""

    def __init__(self, sample: Callable[[], bool] = lambda: True) -> None:
        self.traces: list[TraceRecord] = []
        self.counts: list[str] = []
        self.wall, self.monotonic = FakeClock(1_000.0), FakeClock(5.0)
        self.recorder = Recorder(
            self.traces.append,
            sample=sample,
            count=self.counts.append,
            wall_clock=self.wall.ns,
            monotonic_clock=self.monotonic.ns,
        )

    def start(self, run: str, parent: str | None = None, watched: Held | None = None) -> SpanRecord | None:
        started = self.recorder.start(run, parent, run, "CHAIN", watched)
        return None if started is None else started[0]

    def begin(self, run: str, parent: str | None = None, watched: Held | None = None) -> SpanRecord:
        span = self.start(run, parent, watched)
        assert span is not None
        return span

    def end(self, run: str) -> None:
        self.recorder.end(run, lambda _: None)

    def fail(self, run: str, outcome: Outcome = Outcome.ERROR, cause: object = "cause") -> None:
        failure = Failure(outcome, "broken", hash(cause), lambda: {"exception.type": "E"})
        self.recorder.fail(run, failure, lambda _: None)

    def span(self, name: str) -> SpanRecord:
        (found,) = [span for trace in self.traces for span in trace.spans if span.name == name]
        return found


@pytest.fixture
def recording() -> Recording:
    return Recording()


def test_the_recorder_hands_over_a_trace_only_when_its_root_ends(recording: Recording) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.end("child")
    assert recording.traces == []
    recording.end("root")
    (trace,) = recording.traces
    root, child = trace.spans
    assert (root.parent_id, child.parent_id) == (None, root.span_id)
    assert {span.status for span in trace.spans} == {Status.OK}
    assert (trace.name, len(trace.trace_id), len(root.span_id)) == ("root", 16, 8)


def test_span_times_stay_monotonic_if_the_wall_clock_jumps_back(recording: Recording) -> None:
    recording.start("root")
    recording.wall.advance(-3_600)
    recording.monotonic.advance(2)
    recording.end("root")
    span = recording.span("root")
    assert span.start_ns == 1_000_000_000_000
    assert span.end_ns == 1_002_000_000_000


def test_the_recorder_counts_calls_that_are_repeated_or_for_unknown_runs(recording: Recording) -> None:
    recording.end("never started")
    recording.fail("never started")
    recording.recorder.event("never started", "event", {})
    recording.start("root")
    recording.start("root")
    recording.start("child", "root")
    recording.end("child")
    recording.end("child")
    recording.end("root")
    recording.end("root")
    assert recording.counts == [*["unknown_run"] * 3, "started_twice", "ended_twice", "unknown_run"]
    assert [len(trace.spans) for trace in recording.traces] == [2]


def test_a_run_with_an_unknown_parent_becomes_a_root(recording: Recording) -> None:
    recording.start("orphan", "somebody else's")
    recording.end("orphan")
    assert recording.span("orphan").parent_id is None


def test_a_run_below_a_child_that_has_ended_joins_the_trace(recording: Recording) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.end("child")
    recording.start("late", "child")
    recording.end("late")
    recording.end("root")
    assert recording.span("late").parent_id == recording.span("child").span_id


@pytest.mark.parametrize(
    ("ended", "left", "whole"),
    [
        (Outcome.COMPLETED, Outcome.ABANDONED, Outcome.COMPLETED),
        (Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.TIMEOUT),
        (Outcome.ERROR, Outcome.ABANDONED, Outcome.ERROR),
        (Outcome.CANCELLED, Outcome.CANCELLED, Outcome.CANCELLED),
        (Outcome.INTERRUPTED, Outcome.INTERRUPTED, Outcome.INTERRUPTED),
    ],
)
def test_runs_that_are_open_when_their_root_ends_are_closed_with_the_root(
    recording: Recording, ended: Outcome, left: Outcome, whole: Outcome
) -> None:
    recording.start("root")
    recording.start("child", "root")
    if ended is Outcome.COMPLETED:
        recording.end("root")
    else:
        recording.fail("root", ended)
    child = recording.span("child")
    assert (child.outcome, child.status_message) == (left, UNFINISHED)
    assert child.end_ns is not None
    assert recording.span("root").outcome is whole
    recording.end("child")
    assert recording.counts == ["unknown_run"]


def test_a_stream_that_ends_before_its_child_gets_the_outcome_abandoned(recording: Recording) -> None:
    recording.begin("root").is_stream = True
    recording.start("child", "root")
    recording.end("root")
    assert recording.span("root").outcome is Outcome.ABANDONED


def test_a_run_that_is_cut_short_keeps_its_partial_outputs(recording: Recording) -> None:
    recording.start("root")
    recording.begin("done", "root").outputs = "a step before"
    recording.end("done")
    recording.begin("child", "root").gathered = Gathering()
    recording.fail("root", Outcome.CANCELLED)
    assert recording.span("child").outputs == recording.span("root").outputs == "so far"


def test_a_cancelled_root_does_not_take_its_outputs_from_a_failed_attempt(recording: Recording) -> None:
    recording.start("root")
    recording.begin("attempt", "root").outputs = "half of it"
    recording.fail("attempt")
    recording.start("child", "root")
    recording.fail("root", Outcome.CANCELLED)
    assert recording.span("root").outputs is None


def test_a_run_gets_the_outcome_cancelled_when_its_watched_object_is_deleted(recording: Recording) -> None:
    held = Held()
    recording.start("root", watched=held)
    recording.recorder.sweep()
    assert recording.recorder.is_recording
    del held
    recording.recorder.sweep()
    assert not recording.recorder.is_recording
    assert (recording.span("root").outcome, recording.span("root").status_message) == (
        Outcome.CANCELLED,
        LOST,
    )


def test_an_ended_run_stays_completed_when_its_watched_object_is_deleted(recording: Recording) -> None:
    held, other = Held(), Held()
    recording.start("root", watched=held)
    recording.start("child", "root", watched=other)
    recording.end("child")
    del other
    recording.recorder.sweep()
    assert recording.recorder.is_recording
    recording.end("root")
    assert [span.outcome for span in recording.traces[0].spans] == [Outcome.COMPLETED] * 2


def test_a_stream_gets_the_outcome_completed_if_its_open_child_was_lost(recording: Recording) -> None:
    held = Held()
    recording.begin("root").is_stream = True
    recording.start("child", "root", watched=held)
    del held
    recording.end("root")
    assert recording.span("child").outcome is Outcome.CANCELLED
    assert recording.span("root").outcome is Outcome.COMPLETED


def test_a_stream_that_the_garbage_collector_ends_gets_the_outcome_abandoned(recording: Recording) -> None:
    held = Held()
    recording.start("root", watched=held)
    recording.begin("child", "root", watched=held)
    del held

    def finish(span: SpanRecord) -> None:
        span.is_stream = True

    recording.recorder.end("root", finish)
    assert [span.outcome for span in recording.traces[0].spans] == [Outcome.ABANDONED] * 2


def test_a_root_is_interrupted_if_its_child_is_interrupted(recording: Recording) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.fail("child", Outcome.INTERRUPTED)
    recording.end("root")
    assert recording.span("root").outcome is Outcome.INTERRUPTED


def test_only_the_innermost_failed_run_records_the_exception_event(recording: Recording) -> None:
    for run, parent in (("root", None), ("middle", "root"), ("leaf", "middle")):
        recording.start(run, parent)
    for run in ("leaf", "middle", "root"):
        recording.fail(run)
    assert [len(span.events) for span in recording.traces[0].spans] == [0, 0, 1]
    assert {span.status for span in recording.traces[0].spans} == {Status.ERROR}
    assert {span.status_message for span in recording.traces[0].spans} == {"broken"}


def test_two_attempts_that_fail_with_equal_exceptions_both_record_an_event(recording: Recording) -> None:
    recording.start("root")
    for attempt in ("first", "second"):
        recording.start(attempt, "root")
        recording.fail(attempt)
    recording.fail("root")
    assert [len(span.events) for span in recording.traces[0].spans] == [0, 1, 1]


def test_a_parent_that_fails_with_another_exception_than_its_child_records_an_event(
    recording: Recording,
) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.fail("child", cause="first")
    recording.fail("root", cause="second")
    assert [len(span.events) for span in recording.traces[0].spans] == [1, 1]


def test_an_event_is_recorded_with_its_time(recording: Recording) -> None:
    recording.start("root")
    recording.monotonic.advance(1)
    recording.recorder.event("root", "halfway", {"done": 1})
    recording.end("root")
    (event,) = recording.span("root").events
    assert (event.name, event.time_ns, event.attributes) == ("halfway", 1_001_000_000_000, {"done": 1})


def test_a_run_whose_content_cannot_be_copied_keeps_its_status(recording: Recording) -> None:
    def break_down(_: SpanRecord) -> None:
        raise ValueError("no copy")

    recording.start("root")
    with pytest.raises(ValueError, match="no copy"):
        recording.recorder.end("root", break_down)
    assert recording.span("root").status is Status.OK
    recording.start("other")
    with pytest.raises(ValueError, match="no copy"):
        recording.recorder.fail("other", Failure(Outcome.ERROR, "m", 1), break_down)
    assert recording.span("other").status is Status.ERROR


def test_the_recorder_records_no_run_of_an_unsampled_trace() -> None:
    recording = Recording(sample=iter([False, True, False]).__next__)
    assert recording.start("root") is None
    assert recording.start("child", "root") is None
    recording.end("child")
    recording.end("root")
    assert recording.start("second") is not None
    recording.end("second")
    recording.start("third")
    recording.fail("third")
    assert [trace.name for trace in recording.traces] == ["second"]
    assert recording.counts == []
    assert recording.recorder._runs == {}


def test_the_sampling_function_of_one_trace_does_not_block_other_traces() -> None:
    waited: list[bool] = []

    def sample() -> bool:
        if recorded.recorder.is_open("root"):
            thread = threading.Thread(target=recorded.start, args=("child", "root"), daemon=True)
            thread.start()
            thread.join(10.0)
            waited.append(thread.is_alive())
        return True

    recorded = Recording(sample)
    recorded.begin("root")
    recorded.begin("second")
    for run in ("child", "root", "second"):
        recorded.end(run)
    assert waited == [False]
    assert [[span.name for span in trace.spans] for trace in recorded.traces] == [
        ["root", "child"],
        ["second"],
    ]


def test_open_runs_are_handed_over_as_cut_off_when_the_process_ends(recording: Recording) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.recorder.finish_all()
    recording.recorder.finish_all()
    (trace,) = recording.traces
    assert {span.outcome for span in trace.spans} == {Outcome.CUT_OFF}


def test_a_forked_child_forgets_the_open_runs_of_its_parent(recording: Recording) -> None:
    recording.start("root")
    recording.recorder.forget()
    recording.end("root")
    assert (recording.traces, recording.counts) == ([], ["unknown_run"])


def test_concurrent_threads_do_not_mix_their_traces() -> None:
    recording = Recording()
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(200):
            root = f"{thread}.{number}"
            recording.start(root)
            recording.start(f"{root}.child", root)
            recording.end(f"{root}.child")
            recording.end(root)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({trace.trace_id for trace in recording.traces}) == 1_600
    assert all(trace.spans[1].name == f"{trace.spans[0].name}.child" for trace in recording.traces)
    assert recording.recorder._runs == {}


@pytest.mark.usefixtures("hasty")
def test_the_recorder_finds_every_run_that_failed_on_concurrent_threads() -> None:
    recorder = Recorder(lambda _trace: None)
    threads, roots = 8, range(200)
    barrier = threading.Barrier(threads)
    for root in roots:
        recorder.start(root, None, "root", "CHAIN")
        for number in range(threads):
            recorder.start((root, number), root, "child", "CHAIN")

    def work(number: int) -> None:
        for root in roots:
            barrier.wait(timeout=60)
            recorder.fail((root, number), Failure(Outcome.ERROR, "no", number), lambda _span: None)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(recorder.failed_below(root)[1]) for root in roots] == [threads] * len(roots)


def test_an_unsampled_trace_stays_unsampled_after_an_event() -> None:
    recording = Recording(sample=iter([False]).__next__)
    recording.start("root")
    recording.recorder.event("root", "custom", {})
    recording.recorder.event("root", "retry", {})
    assert recording.start("child", "root") is None
    recording.end("child")
    recording.end("root")
    assert recording.traces == []
    assert recording.counts == []
    assert recording.recorder._runs == {}


def test_the_size_of_a_trace_includes_the_size_of_its_events() -> None:
    recording = Recording()
    recording.start("root")
    recording.recorder.event("root", "big", {"data": "x"}, 5_000)
    recording.end("root")
    assert recording.traces[0].size == 5_000 + 1_024


def test_a_run_that_starts_after_its_root_ended_gets_its_own_trace(recording: Recording) -> None:
    recording.start("root")
    recording.end("root")
    recording.start("late", "root")
    recording.end("late")
    assert [[span.name for span in trace.spans] for trace in recording.traces] == [["root"], ["late"]]


def test_a_trace_that_is_cut_off_while_its_root_ends_is_handed_over_once() -> None:
    recording = Recording()
    recording.start("root")

    def close_the_tracer(_: SpanRecord) -> None:
        recording.recorder.finish_all()

    recording.recorder.end("root", close_the_tracer)
    assert len(recording.traces) == 1


def test_an_unsampled_trace_is_not_handed_over_when_the_process_ends() -> None:
    recording = Recording(sample=lambda: False)
    recording.start("root")
    recording.recorder.finish_all()
    assert recording.traces == []


def test_a_span_that_ended_before_its_root_failed_keeps_its_outcome(recording: Recording) -> None:
    recording.start("root")
    recording.start("child", "root")
    recording.end("child")
    recording.fail("root", Outcome.CANCELLED)
    assert recording.span("child").outcome is Outcome.COMPLETED
    assert recording.span("root").status is Status.ERROR


def test_the_recorder_reads_the_wall_clock_once_for_each_trace(recording: Recording) -> None:
    recording.start("first")
    recording.wall.advance(100)
    recording.monotonic.advance(1)
    recording.start("child", "first")
    recording.start("second")
    child, second = recording.recorder.find("child"), recording.recorder.find("second")
    assert child is not None
    assert child[0].start_ns == 1_001_000_000_000
    assert second is not None
    assert second[0].start_ns == 1_100_000_000_000


def test_trace_ids_differ_if_the_application_seeds_the_random_generator_of_python() -> None:
    ids = set()
    for _ in range(2):
        random.seed(7)
        recording = Recording()
        recording.start("root")
        recording.end("root")
        ids.add(recording.traces[0].trace_id)
    assert len(ids) == 2


def test_reading_the_running_traces_waits_for_no_lock() -> None:
    recording = Recording()
    recording.begin("root")
    found: list[TraceRecord] = []
    looks = threading.Thread(target=lambda: found.extend(recording.recorder.running(0.0)), daemon=True)
    with recording.recorder._lock:  # of a thread that was interrupted, by a handler that waits for who looks
        looks.start()
        looks.join(5)
        assert [trace.name for trace in found] == ["root"]


def test_a_trace_that_ends_during_a_read_of_the_running_traces_is_not_returned() -> None:
    traces: list[TraceRecord] = []
    clock, ends = FakeClock(5.0), list[str]()

    def ends_meanwhile() -> int:
        if ends:
            recorder.end(ends.pop(), lambda _span: None)
        return clock.ns()

    recorder = Recorder(traces.append, monotonic_clock=ends_meanwhile)
    recorder.start("root", None, "root", "CHAIN")
    ends.append("root")
    assert recorder.running(0.0) == []
    assert len(traces) == 1
