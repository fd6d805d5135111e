"""Deletes, damages, blocks and forks under an open database."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool import database
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import wait_for

MAX_BYTES = 2**30


class Told(list[tuple[str, str]]):
    def __call__(self, cause: str, said: str) -> None:
        self.append((cause, said))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(database, "CHECK_EVERY", 0.0)
    opened = Spool(folder, MAX_BYTES, warn=told)
    yield opened
    opened.close()


def items(*keys: str) -> list[Item]:
    return [Item(key, "d", "p", key.encode() * 100) for key in keys]


def keys(spool: Spool) -> list[str]:
    return [lease.key for lease in spool.lease("d", 100_000, 2**40)]


class TestDeleted:
    def test_a_deleted_spool_file_is_replaced_by_one_with_the_pending_items(
        self, spool: Spool, folder: Path, told: Told
    ) -> None:
        spool.put(items("a", "b"))
        shutil.rmtree(folder)
        spool.put(items("c"))
        assert sorted(keys(spool)) == ["a", "b", "c"]
        assert [cause for cause, _ in told] == ["spool_lost"]
        assert "2 traces" in told[0][1]
        assert folder.stat().st_mode & 0o777 == 0o700
        with sqlite3.connect(folder / "spool.db") as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (3,)

    def test_two_processes_that_replace_a_deleted_spool_file_store_each_item_once(
        self, spool: Spool, folder: Path
    ) -> None:
        other = Spool(folder, MAX_BYTES)
        spool.put(items("a", "b"))
        shutil.rmtree(folder)
        spool.put(items("c"))
        other.put(items("d"))
        assert sorted(keys(other)) == ["a", "b", "c", "d"]
        other.close()

    def test_items_of_a_deleted_spool_file_are_kept_until_a_new_file_can_be_made(
        self, spool: Spool, folder: Path
    ) -> None:
        spool.put(items("a"))
        shutil.rmtree(folder)
        folder.write_text("a file in the way")
        with pytest.raises(SpoolError, match="does not work"):
            spool.put(items("b"))
        folder.unlink()
        spool.put(items("b"))
        assert sorted(keys(spool)) == ["a", "b"]

    def test_the_drain_lock_is_not_valid_any_more_when_its_file_was_deleted(
        self, spool: Spool, folder: Path
    ) -> None:
        drain = spool.drain()
        assert drain is not None
        assert drain.is_valid
        shutil.rmtree(folder)
        assert not drain.is_valid
        drain.release()


class TestDamaged:
    def overwrite(self, folder: Path) -> None:
        """Fold the log in, and write over everything but the first page: it is a database, and damaged."""
        with sqlite3.connect(folder / "spool.db") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = (folder / "spool.db").stat().st_size
        with (folder / "spool.db").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))

    def test_a_damaged_spool_file_is_put_aside_when_it_is_opened(self, folder: Path, told: Told) -> None:
        first = Spool(folder, MAX_BYTES)
        first.put(items("a"))
        first.close()
        (folder / "spool.db").write_bytes(b"no database " * 1_000)
        spool = Spool(folder, MAX_BYTES, warn=told)
        spool.put(items("b"))
        assert keys(spool) == ["b"]
        assert [cause for cause, _ in told] == ["spool_damaged"]
        assert (folder / "spool.db.damaged").read_bytes().startswith(b"no database")
        spool.close()

    def test_a_spool_file_that_is_damaged_while_it_is_open_is_put_aside_and_replaced(
        self, folder: Path, told: Told
    ) -> None:
        spool = Spool(folder, MAX_BYTES, warn=told)
        spool.put([Item(str(number), "d", "p", bytes(3_000)) for number in range(50)])
        self.overwrite(folder)
        fresh = Spool(folder, MAX_BYTES, warn=told)  # another process meets the damage first
        fresh.put(items("x"))
        wait_for(lambda: _put(spool, "y"), 5)
        assert set(keys(fresh)) >= {"x", "y"}
        assert "spool_damaged" in {cause for cause, _ in told}
        spool.close()
        fresh.close()

    def test_readable_items_of_a_damaged_spool_file_are_copied_to_the_new_one(
        self, folder: Path, told: Told
    ) -> None:
        first = Spool(folder, MAX_BYTES)
        first.put([Item(f"{number:03}", "d", "p", bytes(3_000)) for number in range(100)])
        first.close()
        with (folder / "spool.db").open("r+b") as file:  # the end of the file: the youngest payloads
            file.seek(-100_000, os.SEEK_END)
            file.write(b"\xa5" * 100_000)
        spool = Spool(folder, MAX_BYTES, warn=told)
        wait_for(lambda: _put(spool, "new"), 5)
        assert spool.figures.totals().waiting > 20
        spool.close()

    def test_a_spool_that_does_not_repair_leaves_a_damaged_file_unchanged(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "spool.db").write_bytes(b"no database " * 1_000)
        with pytest.raises(SpoolError) as caught:
            Spool(folder, MAX_BYTES, repairs=False)
        assert caught.value.damaged
        assert [file.name for file in folder.iterdir()] == ["spool.db"]


def _put(spool: Spool, key: str) -> bool:
    try:
        spool.put(items(key))
        return key in keys(spool)
    except SpoolError:
        return False


class TestBadInput:
    def test_a_database_of_another_program_is_not_changed(self, folder: Path) -> None:
        folder.mkdir()
        with sqlite3.connect(folder / "spool.db") as connection:
            connection.execute("CREATE TABLE theirs (a)")
        with pytest.raises(SpoolError, match="another program: give another spool_dir"):
            Spool(folder, MAX_BYTES)
        with sqlite3.connect(folder / "spool.db") as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]

    def test_files_of_other_programs_in_the_spool_folder_are_not_changed(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "theirs.txt").write_text("theirs")
        spool = Spool(folder, MAX_BYTES)
        spool.put(items("a"))
        spool.close()
        assert (folder / "theirs.txt").read_text() == "theirs"

    def test_a_spool_with_the_first_schema_is_migrated(self, folder: Path) -> None:
        folder.mkdir()
        with sqlite3.connect(folder / "spool.db") as connection:
            connection.executescript(
                "CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,"
                " destination TEXT NOT NULL, producer TEXT NOT NULL, created REAL NOT NULL,"
                " size INTEGER NOT NULL, payload BLOB NOT NULL);"
                "INSERT INTO items VALUES (1, 'old', 'd', 'p', 1.0, 1, x'00'); PRAGMA user_version = 1;"
            )
        connection.close()
        spool = Spool(folder, MAX_BYTES)
        spool.running.put(items("runs"))
        assert (keys(spool), spool.figures.totals().running) == (["old"], 1)
        spool.close()


class TestADiskThatHangs:
    def test_a_thread_waits_for_a_moment_only_if_another_one_hangs_in_the_spool(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "PATIENCE", 0.1)
        monkeypatch.setattr(database, "FORK_PATIENCE", 0.1)
        with spool._database.transaction():
            began = time.monotonic()
            for call in (spool.figures.totals, spool.destinations, lambda: spool.put(items("a"))):
                with pytest.raises(SpoolError, match="does not answer"):
                    call()
            spool._database._before_fork()
            spool._database._after_fork()
            assert time.monotonic() - began < 2
        spool.put(items("a"))

    def test_a_thread_waits_less_if_another_one_has_been_hanging_for_long(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "PATIENCE", 20.0)
        with spool._database.transaction():
            spool._database._busy_since -= 21  # as much later
            began = time.monotonic()
            with pytest.raises(SpoolError, match="does not answer"):
                spool.figures.totals()
            assert time.monotonic() - began < 10
        assert spool.figures.totals().waiting == 0


def _told(stacks: Iterable[Path]) -> str:
    """What stands in these files: where children hang, and where their parent was at the fork."""
    return "\n".join(f"{one.name}:\n{one.read_text()}" for one in sorted(stacks))


LONGER = 80
"""Seconds after which a child that waits in vain for something else says where."""


def _until_put(folder: Path, key: str) -> None:
    """Put an item with a spool of one's own; try again while others keep it busy, as a writer does."""
    stack = (folder.parent / f"{key}.stack").open("w")
    faulthandler.dump_traceback_later(LONGER, exit=True, file=stack)

    def put() -> bool:
        try:
            Spool(folder, MAX_BYTES).put(items(key))
        except SpoolError:
            return False
        return True

    wait_for(put, 60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
class TestFork:
    def in_child(self, work: Callable[[], object], stacks: Path = Path(os.devnull)) -> int:
        """Fork; the child does its work and is gone, without closing anything."""
        with stacks.open("w") as file:  # a child that hangs in SQLite inherits a lock of whoever is in there
            faulthandler.dump_traceback(file=file)
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            finally:
                os._exit(1)
        return child

    def test_a_forked_child_can_write_while_its_parent_is_busy_and_after_its_end(
        self, spool: Spool, folder: Path
    ) -> None:
        stop = threading.Event()
        put: list[str] = []

        def write() -> None:
            while not stop.wait(0.005):  # others must have their turn
                with contextlib.suppress(SpoolError):
                    spool.put(items(f"parent-{len(put)}"))
                    put.append(f"parent-{len(put)}")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            keys_of_children = [f"child-{number}" for number in range(4)]
            children = [
                self.in_child(functools.partial(_until_put, folder, key), folder.parent / f"fork-{key}.stack")
                for key in keys_of_children
            ]
            ended = [os.waitpid(child, 0)[1] for child in children]
            assert ended == [0] * 4, _told(folder.parent.glob("*.stack"))
        finally:
            stop.set()
            thread.join()
        assert set(keys(spool)) == {*put, *keys_of_children}
        spool.close()
        with sqlite3.connect(folder / "spool.db") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_a_forked_child_can_take_the_drain_lock_only_when_its_parent_releases_it(
        self, spool: Spool, folder: Path
    ) -> None:
        drain = spool.drain()
        assert drain is not None
        reads, writes = os.pipe()

        def take_over() -> None:
            own = Spool(folder, MAX_BYTES)
            os.write(writes, b"ready" if own.drain() is None else b"stole")
            wait_for(own.drain, 30)

        child = self.in_child(take_over)
        assert os.read(reads, 5) == b"ready"
        drain.release()
        assert os.waitpid(child, 0)[1] == 0
