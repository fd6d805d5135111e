"""Lets a lane live through hours and days of failures in no time: the clock goes on where it would wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

import pytest

from langchain_mlflow_tracer.core.errors import ExportError, PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery import lane, suspects
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.lane import Lane
from langchain_mlflow_tracer.spool.spool import Spool
from tests.delivery.test_forwarder import items, trace
from tests.support.fakes import FakeClock, MemoryExporter

MINUTE, HOUR, DAY = 60.0, 3_600.0, 24 * 3_600.0

SERVER_ERROR, TOO_LARGE = HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Waiting:
    """Takes no time: the clock goes on instead, unless the event that is waited for has happened."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waits: list[float] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, event: threading.Event, seconds: float) -> None:
        self.meanwhile()
        if not event.is_set():
            self.waits.append(seconds)
            self.clock.advance(seconds)


class Down(MemoryExporter):
    """Fails until `clock` says that it is time, then takes everything."""

    def __init__(self, clock: FakeClock, seconds: float, status: int | None = None) -> None:
        super().__init__()
        self.clock, self.up, self.status = clock, clock.now + seconds, status

    def export(self, payloads: Sequence[bytes]) -> None:
        if self.clock.now < self.up:
            self.batches.append(len(payloads))
            raise TransientExportError("down", status=self.status, suspect=self.status == SERVER_ERROR)
        super().export(payloads)


class Choking(MemoryExporter):
    """Raises `error` for a request that holds a trace of `numbers`; `met` tells how many there were."""

    def __init__(self, error: Exception, *numbers: int) -> None:
        super().__init__()
        self.error, self.poison, self.met = error, [trace(number).trace_id for number in numbers], 0

    def export(self, payloads: Sequence[bytes]) -> None:
        if any(one in b"".join(payloads) for one in self.poison):
            self.met += 1
            raise self.error
        super().export(payloads)


class Narrow(MemoryExporter):
    """Takes at most `most` traces in one request."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def export(self, payloads: Sequence[bytes]) -> None:
        self.failures = [TransientExportError("too large", status=TOO_LARGE)] * (len(payloads) > self.most)
        super().export(payloads)


class Showing(MemoryExporter):
    """Notes each trace that it is shown, whether or not it then raises the next of `refusals`."""

    def __init__(self, refusals: Sequence[ExportError] = ()) -> None:
        super().__init__()
        self.refusals, self.shows = list(refusals), 0

    def show(self, payloads: Sequence[bytes]) -> None:
        self.shows += len(payloads)
        if self.refusals:
            raise self.refusals.pop(0)
        super().show(payloads)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def waiting(clock: FakeClock) -> Waiting:
    return Waiting(clock)


@pytest.fixture
def log() -> Log:
    return Log(logging.getLogger("langchain_mlflow_tracer"))


@pytest.fixture
def spool(tmp_path: Path, clock: FakeClock) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", max_bytes=2**30, clock=clock)
    yield opened
    opened.close()


Make = Callable[[Exporter], Lane]


@pytest.fixture
def make(spool: Spool, log: Log, clock: FakeClock, waiting: Waiting) -> Iterator[Make]:
    """Make lanes whose own threads sleep: the tests call what those would."""
    made: list[Lane] = []

    def new(exporter: Exporter) -> Lane:
        made.append(Lane("d", exporter, spool, log, clock=clock, wait=waiting))
        return made[-1]

    yield new
    for one in made:
        one.stop()
        assert one.ended(5)


def ids(first: int, last: int) -> list[str]:
    return [trace(number).mlflow_id for number in range(first, last + 1)]


class TestALongOutage:
    @pytest.mark.parametrize("seconds", [HOUR, 3 * DAY])
    def test_a_long_outage_costs_little_and_ends_with_all_traces_sent_oldest_first(
        self, seconds: float, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Down(clock, seconds)
        spool.put(items(500))
        make(exporter)._deliver_all()  # three days are 4,000 attempts: the backoff exceeds what a float holds
        first, *rest = exporter.traces  # the one that was asked with when the outage ended
        assert rest == [one for one in ids(1, 500) if one != first]
        assert spool.figures.totals().waiting == 0
        asked = len(waiting.waits)
        # Waits are from half a minute to a whole one, after two dozen that grow up to there.
        assert seconds / 60 <= asked <= seconds / 30 + 24
        assert clock.now - exporter.up <= MINUTE
        assert exporter.batches[asked:] == [1, 2, 4, 8, 16, 32, 64, 100, 100, 100, 73]

    def test_attempts_in_an_outage_send_one_trace_instead_of_a_batch(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Down(clock, HOUR)
        spool.put(items(500))
        make(exporter)._deliver_all()
        failed = exporter.batches[: len(waiting.waits)]
        assert failed == [100] + [1] * (len(failed) - 1)

    def test_traces_recorded_in_an_outage_are_sent_after_older_ones(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Down(clock, 10 * MINUTE)
        spool.put(items(1))
        waiting.meanwhile = lambda: spool.put(items(1, first=spool.figures.totals().waiting + 1))
        make(exporter)._deliver_all()
        first, *rest = exporter.traces
        assert rest == [one for one in ids(1, len(waiting.waits) + 1) if one != first]

    def test_every_failed_attempt_of_an_outage_is_counted_until_it_is_over(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting, log: Log
    ) -> None:
        seen: list[int] = []
        waiting.meanwhile = lambda: seen.append(spool.figures.failures()[0].attempts)
        spool.put(items(1))
        make(Down(clock, HOUR))._deliver_all()
        assert seen == list(range(1, len(seen) + 1))
        assert log.counts()["export_failed"] == len(seen)
        assert spool.figures.failures() == []


class TestTooLarge:
    def test_batches_that_are_too_large_are_halved_until_no_trace_is_pending(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        exporter = Narrow(most=30)
        lane = make(exporter)
        spool.put(items(200))
        lane._deliver_all()
        assert exporter.batches == [100, 50] + [25] * 8
        assert waiting.waits == []
        exporter.batches.clear()
        spool.put(items(200, first=201))
        exporter.most = 100
        lane._deliver_all()
        assert exporter.batches == [25, 50, 100, 25]
        assert list(exporter.traces) == ids(1, 400)

    def test_a_single_trace_that_is_too_large_stays_pending(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        exporter = MemoryExporter([TransientExportError("too large", status=TOO_LARGE)])
        spool.put(items(1))
        make(exporter)._deliver_all()
        assert exporter.batches == [1, 1]
        assert len(waiting.waits) == 1


class TestBlame:
    @pytest.mark.parametrize(
        "error",
        [
            TransientExportError("choked", status=SERVER_ERROR, suspect=True),
            TransientExportError("choked", status=TOO_LARGE, suspect=True),
            ValueError("choked"),
            RecursionError("choked"),
            KeyError("choked"),
        ],
    )
    @pytest.mark.parametrize(
        "guilty", [(1,), (7,), (20,), (3, 4, 19), tuple(range(1, 20)), tuple(range(2, 21))]
    )
    def test_guilty_traces_are_rejected_within_a_minute_and_all_others_are_sent(
        self, guilty: tuple[int, ...], error: Exception, make: Make, spool: Spool, clock: FakeClock
    ) -> None:
        exporter, began = Choking(error, *guilty), clock.now
        lane_of_d = make(exporter)
        spool.put(items(20))
        while spool.figures.totals().waiting:
            lane_of_d._deliver_all()
            clock.advance(1)
            if clock.now > began + MINUTE / 2:
                assert len(exporter.traces) == 20 - len(guilty)
            assert clock.now <= began + MINUTE
        assert set(exporter.traces) == set(ids(1, 20)) - {trace(one).mlflow_id for one in guilty}
        dead = list(spool.dead_letters)
        assert {one.key for one in dead} == {trace(one).mlflow_id for one in guilty}
        for one in dead:
            assert "choked" in one.reason
            assert one.reason.endswith(f"({suspects.GUILTY} times, while others were accepted)")

    @pytest.mark.parametrize(
        "error", [TransientExportError("busy", status=503), MemoryError("full"), OSError("full")]
    )
    def test_a_trace_that_fails_by_an_error_of_its_surroundings_is_not_rejected_and_delays_no_other(
        self, error: Exception, make: Make, spool: Spool, clock: FakeClock
    ) -> None:
        exporter, began = Choking(error, 7), clock.now
        lane_of_d = make(exporter)
        spool.put(items(20))
        for number in range(21, 81):
            spool.put(items(1, first=number))
            lane_of_d._deliver_all()
            assert spool.figures.totals().waiting == 1
            clock.advance(20)
        assert clock.now < began + HOUR
        assert spool.figures.totals().dead == 0
        exporter.poison = []
        clock.advance(suspects.LONGEST_WAIT)
        lane_of_d._deliver_all()
        assert set(exporter.traces) == set(ids(1, 80))

    @pytest.mark.parametrize("error", [ValueError("broken"), ImportError("half of mlflow")])
    def test_no_trace_is_rejected_while_all_traces_fail(
        self, error: Exception, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter, until = Choking(error, *range(1, 40)), clock.now + HOUR

        def mend_after_an_hour() -> None:
            if clock.now > until:
                exporter.poison = []

        waiting.meanwhile = mend_after_an_hour
        spool.put(items(39))
        make(exporter)._deliver_all()
        assert spool.figures.totals().dead == 0
        assert set(exporter.traces) == set(ids(1, 39))

    def test_an_outage_just_after_a_sent_trace_rejects_no_trace(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Down(clock, 0)
        lane_of_d = make(exporter)
        spool.put(items(5))
        lane_of_d._deliver_all()
        exporter.up, exporter.status = clock.now + HOUR, SERVER_ERROR
        spool.put(items(1, first=6))
        while spool.figures.totals().waiting:
            lane_of_d._deliver_all()
            clock.advance(1)
        assert spool.figures.totals().dead == 0
        assert set(exporter.traces) == set(ids(1, 6))

    def test_repeated_outages_reject_no_trace(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Down(clock, 0, SERVER_ERROR)
        lane = make(exporter)
        for number in range(20):
            exporter.up = clock.now + HOUR
            spool.put(items(20, first=20 * number + 1))
            lane._deliver_all()
            assert spool.figures.totals().dead == 0
            assert spool.figures.totals().waiting == 0
        assert set(exporter.traces) == set(ids(1, 400))

    def test_a_trace_that_is_the_only_one_is_not_rejected(
        self, make: Make, spool: Spool, clock: FakeClock
    ) -> None:
        exporter = Down(clock, DAY, SERVER_ERROR)
        spool.put(items(1))
        make(exporter)._deliver_all()
        assert list(exporter.traces) == ids(1, 1)
        assert spool.figures.totals().dead == 0

    def test_requests_without_an_answer_reject_no_trace(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        exporter = MemoryExporter([TransientExportError("timed out")] * 20)
        spool.put(items(2))
        make(exporter)._deliver_all()
        assert exporter.batches == [2] + [1] * 20 + [1]
        assert set(exporter.traces) == set(ids(1, 2))

    def test_a_permanently_refused_trace_is_found_by_halving(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        class Refusing(Choking):
            def export(self, payloads: Sequence[bytes]) -> None:
                try:
                    super().export(payloads)
                except TransientExportError:
                    raise PermanentExportError("malformed") from None

        exporter = Refusing(TransientExportError("choked"), 7)
        spool.put(items(64))
        make(exporter)._deliver_all()
        assert (exporter.met, waiting.waits) == (7, [])  # 64, 32, ... 1
        assert set(exporter.traces) == set(ids(1, 64)) - {trace(7).mlflow_id}
        assert [one.reason for one in spool.dead_letters] == ["malformed"]


class TestHowLongToWait:
    def hurried(self, error: TransientExportError, make: Make, spool: Spool, waiting: Waiting) -> float:
        """Return how long one failure holds up a delivery that somebody wants done in a hurry."""
        lane = make(MemoryExporter([error]))
        waiting.meanwhile = lane.retry_now
        spool.put(items(1))
        lane._deliver_all()
        assert spool.figures.totals().waiting == 0
        return sum(waiting.waits)

    def test_retry_now_does_not_shorten_a_wait_that_the_destination_asked_for(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        asked = TransientExportError("busy", status=503, retry_after=120)
        assert 120 <= self.hurried(asked, make, spool, waiting) <= 121

    def test_retry_now_ends_an_ordinary_wait(self, make: Make, spool: Spool, waiting: Waiting) -> None:
        assert self.hurried(TransientExportError("busy", status=503), make, spool, waiting) == 0

    def test_retry_now_ends_an_ordinary_wait_after_one_that_the_destination_asked_for(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        failures = [TransientExportError("busy", retry_after=10), TransientExportError("no")]
        lane = make(MemoryExporter(failures))
        waiting.meanwhile = lane.retry_now
        spool.put(items(1))
        lane._deliver_all()
        assert len(waiting.waits) == 1

    @pytest.mark.parametrize("status", [401, 403])
    def test_attempts_with_refused_credentials_are_at_least_five_seconds_apart(
        self, status: int, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        spool.put(items(1))
        make(Down(clock, 10 * MINUTE, status))._deliver_all()
        assert min(waiting.waits) >= 5
        assert spool.figures.totals().waiting == 0

    def test_a_stopped_lane_sends_no_trace(self, make: Make, spool: Spool, waiting: Waiting) -> None:
        exporter = MemoryExporter([TransientExportError("no")])
        lane = make(exporter)
        waiting.meanwhile = lane.stop
        spool.put(items(3))
        lane._deliver_all()
        lane._deliver_all()
        assert exporter.batches == [3]


class TestWhatRuns:
    def test_a_running_trace_is_shown_once_and_again_only_after_a_change(
        self, make: Make, spool: Spool
    ) -> None:
        exporter = Showing()
        lane = make(exporter)
        spool.running.put(items(2))
        for shows in (2, 2):
            lane._deliver_all()
            assert exporter.shows == shows
        spool.running.put(items(1))
        lane._deliver_all()
        assert exporter.shows == 3
        assert list(exporter.shown) == ids(1, 2)
        assert exporter.traces == {}
        assert spool.figures.totals().running == 2

    def test_ended_traces_are_sent_before_running_ones_are_shown(self, make: Make, spool: Spool) -> None:
        exporter = Showing()
        spool.running.put(items(2))
        spool.put(items(1))
        make(exporter)._deliver_all()
        assert (list(exporter.traces), list(exporter.shown)) == (ids(1, 1), ids(2, 2))

    def test_a_running_trace_that_changes_while_it_is_shown_is_shown_again(
        self, make: Make, spool: Spool
    ) -> None:
        class Slow(Showing):
            def show(self, payloads: Sequence[bytes]) -> None:
                if not self.shows:
                    spool.running.put(items(1))
                super().show(payloads)

        exporter = Slow()
        spool.running.put(items(1))
        make(exporter)._deliver_all()
        assert exporter.shows == 2

    @pytest.mark.parametrize(
        "error", [ValueError("choked"), RecursionError("choked"), PermanentExportError("choked")]
    )
    def test_a_running_trace_that_cannot_be_shown_delays_no_other(
        self, error: Exception, make: Make, spool: Spool, waiting: Waiting, log: Log
    ) -> None:
        class Choked(MemoryExporter):
            def show(self, payloads: Sequence[bytes]) -> None:
                if trace(2).trace_id in b"".join(payloads):
                    raise error
                super().show(payloads)

        exporter = Choked()
        lane = make(exporter)
        spool.running.put(items(3))
        lane._deliver_all()
        lane._deliver_all()
        assert set(exporter.shown) == {*ids(1, 1), *ids(3, 3)}
        assert (log.counts()["not_shown"], waiting.waits) == (1, [])

    def test_a_running_trace_that_the_destination_refuses_is_not_shown_again(
        self, make: Make, spool: Spool, log: Log, waiting: Waiting
    ) -> None:
        exporter = Showing([PermanentExportError("what is this?")])
        lane = make(exporter)
        spool.running.put(items(1))
        lane._deliver_all()
        lane._deliver_all()
        assert (exporter.shows, waiting.waits) == (1, [])
        assert log.counts()["not_shown"] == 1

    def test_a_trace_is_sent_again_if_the_server_may_still_overwrite_it_with_its_running_state(
        self, make: Make, spool: Spool, clock: FakeClock, waiting: Waiting
    ) -> None:
        exporter = Showing([TransientExportError("no answer")])
        lane_of_d, began = make(exporter), clock.now
        spool.running.put(items(1))
        waiting.meanwhile = lambda: spool.put(items(1))
        lane_of_d._deliver_all()
        assert (exporter.batches, spool.figures.totals().waiting) == ([1], 1)
        clock.now = began + lane.DOUBT - 1
        lane_of_d._deliver_all()
        assert (exporter.batches, spool.figures.totals().waiting) == ([1], 1)
        clock.now = began + lane.DOUBT + 1
        lane_of_d._deliver_all()
        assert (exporter.batches, spool.figures.totals().waiting) == ([1, 1], 0)

    def test_a_show_without_an_answer_does_not_delay_the_removal_of_other_traces(
        self, make: Make, spool: Spool, waiting: Waiting
    ) -> None:
        exporter = Showing([TransientExportError("no answer")])
        spool.running.put(items(1))
        waiting.meanwhile = lambda: spool.put(items(3))
        make(exporter)._deliver_all()
        assert list(exporter.traces) == ids(1, 3)
        assert [one.key for one in spool.lease("d", 10, 2**20)] == ids(1, 1)
