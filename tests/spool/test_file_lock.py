"""Takes locks twice, waits for them, and deletes their files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from langchain_mlflow_tracer.spool import file_lock
from langchain_mlflow_tracer.spool.file_lock import FileLock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture(params=["flock", "SQLite"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock as on POSIX, and as where there is no flock."""
    monkeypatch.setattr(file_lock, "HAS_FLOCK", request.param == "flock")


@pytest.mark.usefixtures("either")
def test_a_file_lock_can_be_taken_once_until_it_is_released(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert FileLock.take(file) is None
    lock.release()
    again = FileLock.take(file)
    assert again is not None
    again.release()


@pytest.mark.usefixtures("either")
def test_waiting_for_a_file_lock_ends_at_its_timeout(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert FileLock.wait_for(file, 0.05) is None
    threading.Timer(0.1, lock.release).start()
    later = FileLock.wait_for(file, 10)
    assert later is not None
    later.release()


def test_a_released_file_lock_is_free_although_a_forked_child_has_a_copy_of_the_file(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    copy = os.dup(lock._descriptor)  # as a fork makes one
    lock.release()
    again = FileLock.take(file)
    assert again is not None
    again.release()
    os.close(copy)


@pytest.mark.usefixtures("either")
def test_a_file_lock_is_not_valid_any_more_when_its_file_was_deleted_or_replaced(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert lock.is_valid
    file.unlink()
    assert not lock.is_valid
    file.touch()
    assert not lock.is_valid
    lock.release()


def test_only_the_owner_can_read_a_lock_file(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert file.stat().st_mode & 0o777 == 0o600
    lock.release()
