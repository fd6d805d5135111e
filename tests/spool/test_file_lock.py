"""Takes locks twice, waits for them, and deletes their files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from langchain_mlflow_tracer.spool.file_lock import FileLock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_lock_is_had_by_one_until_it_is_released(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert FileLock.take(file) is None
    lock.release()
    again = FileLock.take(file)
    assert again is not None
    again.release()


def test_it_is_waited_for_but_not_for_ever(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert FileLock.wait_for(file, 0.05) is None
    threading.Timer(0.1, lock.release).start()
    later = FileLock.wait_for(file, 10)
    assert later is not None
    later.release()


def test_a_copy_that_a_forked_child_has_by_chance_does_not_hold_it(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    copy = os.dup(lock._descriptor)  # as a fork makes one
    lock.release()
    again = FileLock.take(file)
    assert again is not None
    again.release()
    os.close(copy)


def test_it_does_not_stand_when_its_file_is_gone_or_another_one(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert lock.is_valid
    file.unlink()
    assert not lock.is_valid
    file.touch()
    assert not lock.is_valid
    lock.release()


def test_its_file_is_its_owners_alone(file: Path) -> None:
    lock = FileLock.take(file)
    assert lock is not None
    assert file.stat().st_mode & 0o777 == 0o600
    lock.release()
