"""Puts, leases, acknowledges, buries: with threads, processes, and files that are not what they should be."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import wait_for
from tests.support.fakes import FakeClock

ROOT = Path(__file__).resolve().parents[2]

MAX_BYTES = 2**20


def item(key: str, destination: str = "d", payload: bytes = b"payload", producer: str = "p") -> Item:
    return Item(key, destination, producer, payload)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def spool(tmp_path: Path, clock: FakeClock) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", max_bytes=MAX_BYTES, clock=clock)
    yield opened
    opened.close()


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process with the package on its path."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


class TestTheQueue:
    def test_items_are_leased_oldest_first_for_their_destination_only(self, spool: Spool) -> None:
        spool.put([item("a"), item("b", "other"), item("c")])
        assert [lease.key for lease in spool.lease("d", 10, 10_000)] == ["a", "c"]
        assert spool.destinations() == ["d", "other"]

    def test_a_lease_is_bounded_in_items_and_bytes_but_never_empty(self, spool: Spool) -> None:
        spool.put([item(str(number), payload=b"x" * 100) for number in range(5)])
        assert len(spool.lease("d", 3, 10_000)) == 3
        assert len(spool.lease("d", 10, 250)) == 2
        assert len(spool.lease("d", 10, 1)) == 1

    def test_acknowledged_items_are_deleted_and_others_are_leased_again(self, spool: Spool) -> None:
        spool.put([item("a"), item("b")])
        spool.ack(spool.lease("d", 1, 10_000), "d")
        assert [lease.key for lease in spool.lease("d", 10, 10_000)] == ["b"]

    def test_an_item_put_again_replaces_itself_and_an_old_lease_cannot_acknowledge_it(
        self, spool: Spool
    ) -> None:
        spool.put([item("a", payload=b"old")])
        old = spool.lease("d", 1, 10_000)
        spool.put([item("a", payload=b"new")])
        spool.ack(old, "d")
        assert [lease.payload for lease in spool.lease("d", 10, 10_000)] == [b"new"]

    def test_a_lease_of_a_deleted_spool_file_matches_no_item_of_the_new_one(
        self, spool: Spool, tmp_path: Path
    ) -> None:
        spool.put([item(key) for key in "abcd"])
        spool.ack(spool.lease("d", 2, 10_000), "d")
        in_flight = spool.lease("d", 2, 10_000)
        spool.put([item("e"), item("f")])
        for file in (tmp_path / "spool").glob("spool.db*"):
            file.unlink()
        wait_for(lambda: spool.figures.totals().waiting == 4 and Spool.exists(tmp_path / "spool"))
        spool.ack(in_flight, "d")
        assert [lease.key for lease in spool.lease("d", 10, 10_000)] == ["c", "d", "e", "f"]

    def test_a_dead_letter_is_kept_with_its_reason(self, spool: Spool, tmp_path: Path) -> None:
        spool.put([item("a"), item("b")])
        spool.dead_letters.add(spool.lease("d", 1, 10_000)[0], "malformed")
        assert (
            spool.figures.totals().waiting,
            spool.figures.totals().dead,
            spool.figures.of_producer("p").dead,
        ) == (1, 1, 1)
        rows = sqlite3.connect(tmp_path / "spool" / "spool.db").execute(
            "SELECT key, reason FROM dead_letters"
        )
        assert rows.fetchall() == [("a", "malformed")]

    def test_the_newest_dead_letter_of_a_key_is_kept(self, spool: Spool) -> None:
        for payload in (b"old", b"new"):
            spool.put([item("a", payload=payload)])
            spool.dead_letters.add(spool.lease("d", 1, 10_000)[0], "malformed")
        assert [letter.payload for letter in spool.dead_letters] == [b"new"]

    def test_a_retried_dead_letter_does_not_replace_a_newer_item(self, spool: Spool) -> None:
        spool.put([item("a", payload=b"old")])
        spool.dead_letters.add(spool.lease("d", 1, 10_000)[0], "malformed")
        spool.put([item("a", payload=b"new")])
        assert spool.dead_letters.retry(["a"]) == 1
        assert [lease.payload for lease in spool.lease("d", 10, 10_000)] == [b"new"]

    def test_a_failed_destination_without_pending_items_does_not_count_as_failing(
        self, spool: Spool, clock: FakeClock
    ) -> None:
        spool.put([item("a")])
        spool.nack("elsewhere", "gone")
        assert not spool.figures.fails(since=clock.now)
        spool.nack("d", "gone too")
        assert spool.figures.fails(since=clock.now)
        assert not spool.figures.fails(since=clock.now + 1)

    def test_the_failure_of_a_destination_is_reported_until_it_accepts_an_item(
        self, spool: Spool, clock: FakeClock
    ) -> None:
        spool.put([item("a")])
        began = clock.now
        spool.nack("d", "first")
        clock.advance(5)
        spool.nack("d", "second")
        (failed,) = spool.figures.failures()
        assert (failed.reason, failed.attempts, failed.since, failed.latest) == (
            "second",
            2,
            began,
            began + 5,
        )
        spool.ack(spool.lease("d", 1, 10_000), "d")
        assert spool.figures.failures() == []

    def test_totals_count_all_items_and_those_of_a_producer(self, spool: Spool, clock: FakeClock) -> None:
        spool.put([item("a", payload=b"12345"), item("b", producer="q")])
        totals = spool.figures.totals()
        assert (totals.waiting, totals.size, totals.oldest) == (2, 12, clock.now)
        assert totals.disk > 0
        assert (
            spool.figures.waiting_of("p"),
            spool.figures.waiting_of("q"),
            spool.figures.waiting_of("r"),
        ) == (1, 1, 0)

    def test_a_full_spool_deletes_its_oldest_items_and_counts_them_as_lost_by_producer(
        self, spool: Spool
    ) -> None:
        gone = sum(
            spool.put([item(f"{number:03}", payload=bytes(20_000), producer="pq"[number % 2])])
            for number in range(100)
        )
        left = [lease.key for lease in spool.lease("d", 200, 2**30)]
        assert left == [f"{number:03}" for number in range(gone, 100)]
        assert 30 <= len(left) <= 50
        assert spool.figures.of_producer("p").lost + spool.figures.of_producer("q").lost == gone
        assert abs(spool.figures.of_producer("p").lost - spool.figures.of_producer("q").lost) <= 1
        assert spool.figures.totals().disk <= MAX_BYTES

    def test_an_item_larger_than_the_spool_is_deleted(self, spool: Spool) -> None:
        assert spool.put([item("a"), item("huge", payload=bytes(2 * MAX_BYTES))]) == 2
        assert spool.figures.totals().waiting == 0

    def test_freed_pages_are_given_back_to_the_file_system(self, tmp_path: Path) -> None:
        spool = Spool(tmp_path / "large", max_bytes=2**30)
        spool.put([item(str(number), payload=bytes(100_000)) for number in range(300)])
        leases = spool.lease("d", 300, 2**30)
        spool.ack(leases, "d")
        for _ in range(20):
            spool.shrink()
        spool.close()
        assert (tmp_path / "large" / "spool.db").stat().st_size < 5_000_000

    def test_an_item_that_was_rejected_twice_is_one_dead_letter_with_the_last_reason(
        self, spool: Spool
    ) -> None:
        for reason in ("first", "last"):
            spool.put([item("a"), item("b")])
            for lease in spool.lease("d", 2, 10_000):
                spool.dead_letters.add(lease, reason)
        assert spool.dead_letters.keys() == ["a", "b"]
        assert [dead.reason for dead in spool.dead_letters] == ["last", "last"]

    def test_asking_whether_a_spool_is_drained_creates_no_file(self, spool: Spool, tmp_path: Path) -> None:
        assert not spool.is_drained()
        assert not (tmp_path / "spool" / "drain.lock").exists()
        drain = spool.drain()
        assert drain is not None
        assert spool.is_drained()
        drain.release()
        assert not spool.is_drained()


class TestFilesAndProcesses:
    def test_only_the_owner_can_read_the_spool_whatever_the_umask_is(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            spool = Spool(tmp_path / "deep" / "spool", max_bytes=MAX_BYTES)
            spool.put([item("a")])
            files = list((tmp_path / "deep" / "spool").iterdir())
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
            assert (tmp_path / "deep" / "spool").stat().st_mode & 0o777 == 0o700
            spool.close()
        finally:
            os.umask(before)

    def test_items_survive_sigkill(self, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys; from pathlib import Path\n"
            "from langchain_mlflow_tracer.spool.spool import Item, Spool\n"
            "Spool(Path(sys.argv[1]), 10**6).put([Item('a', 'd', 'p', b'kept')])\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert python(code, tmp_path / "spool").wait(30) == -9
        spool = Spool(tmp_path / "spool", max_bytes=MAX_BYTES)
        assert [lease.payload for lease in spool.lease("d", 1, 100)] == [b"kept"]
        spool.close()

    def test_only_one_thread_or_process_holds_the_drain_lock(self, spool: Spool, tmp_path: Path) -> None:
        drain = spool.drain()
        assert drain is not None
        assert spool.drain() is None
        code = (
            "import sys; from pathlib import Path\n"
            "from langchain_mlflow_tracer.spool.spool import Spool\n"
            "print(Spool(Path(sys.argv[1]), 10**6).drain() is None)"
        )
        assert python(code, tmp_path / "spool").communicate(timeout=30)[0].strip() == "True"
        drain.release()
        again = spool.drain()
        assert again is not None
        again.release()

    def test_the_drain_lock_is_free_when_its_holder_was_killed(self, spool: Spool, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path\n"
            "from langchain_mlflow_tracer.spool.spool import Spool\n"
            "drain = Spool(Path(sys.argv[1]), 10**6).drain()\n"
            "print('held', flush=True); time.sleep(60)"
        )
        holder = python(code, tmp_path / "spool")
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert spool.drain() is None
        holder.kill()
        holder.wait(30)
        drain = spool.drain()
        assert drain is not None
        drain.release()

    def test_processes_that_open_a_new_spool_at_once_all_succeed(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path\n"
            "from langchain_mlflow_tracer.spool.spool import Item, Spool\n"
            "sys.stdin.readline()\n"
            "Spool(Path(sys.argv[1]), 10**6).put([Item(sys.argv[2], 'd', 'p', b'x')])"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / "spool"), str(number)],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, text=True,
            )
            for number in range(6)
        ]  # fmt: skip
        for process in started:
            process.communicate("go\n", timeout=60)
        assert [process.returncode for process in started] == [0] * 6
        spool = Spool(tmp_path / "spool", max_bytes=MAX_BYTES)
        assert spool.figures.totals().waiting == 6
        spool.close()

    def test_a_spool_of_a_newer_release_is_an_error_that_names_a_solution(
        self, spool: Spool, tmp_path: Path
    ) -> None:
        with sqlite3.connect(tmp_path / "spool" / "spool.db") as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(SpoolError, match="upgrade langchain-mlflow-tracer"):
            Spool(tmp_path / "spool", max_bytes=MAX_BYTES)

    def test_a_file_that_is_no_database_is_a_spool_error_and_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "spool").mkdir()
        (tmp_path / "spool" / "spool.db").write_bytes(b"something else " * 1_000)
        with pytest.raises(SpoolError, match="does not work"):
            Spool(tmp_path / "spool", max_bytes=MAX_BYTES, repairs=False)
        assert [file.name for file in (tmp_path / "spool").iterdir()] == ["spool.db"]

    def test_a_spool_folder_that_is_a_file_is_a_spool_error(self, tmp_path: Path) -> None:
        (tmp_path / "spool").write_text("")
        with pytest.raises(SpoolError, match="does not work"):
            Spool(tmp_path / "spool", max_bytes=MAX_BYTES)

    def test_a_failed_transaction_changes_nothing(self, spool: Spool) -> None:
        spool.put([item("a")])
        with pytest.raises(SpoolError, match="no such table"), spool._database.transaction() as execute:
            [execute(statement) for statement in ("DELETE FROM items", "DELETE FROM nowhere")]
        assert spool.figures.totals().waiting == 1

    def test_a_spool_that_another_process_locks_is_a_spool_error_after_a_moment(
        self, spool: Spool, tmp_path: Path
    ) -> None:
        other = sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match="locked"):
            spool.put([item("a")])
        other.execute("ROLLBACK")
        other.close()
        spool.put([item("a")])
        wait_for(lambda: spool.figures.totals().waiting == 1)
