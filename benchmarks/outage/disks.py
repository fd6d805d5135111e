"""Scenarios of full, missing, read-only, damaged and hanging disks: lost traces are counted and logged."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.outage.trial import (
    NEXT_PROCESS,
    Application,
    Scenario,
    SkippedError,
    Trial,
    counted_as_lost,
    rows_of,
    wait_until,
)
from tests.support.proxy import REFUSING

__all__ = ["SCENARIOS"]

COUNT = 200
"""Number of traces in each scenario."""

PACE = 0.02
"""Seconds between the invokes of an application, so that a fault can happen in the middle."""

FILE_LIMIT = 512 * 1024
"""Maximum bytes of a file when the disk is full: less than the traces need."""

SMALL_DISK = "1m"
"""Size of a file system that becomes full."""

PAGE = 4096
"""Bytes of a page of SQLite."""

NEWER = 999
"""A schema version that no present release knows."""


def hold_kept_or_counted(trial: Trial, application: Application, seconds: float) -> None:
    """Check that the application was not blocked, and that each trace arrives or is counted as lost."""
    trial.hold_results(application, COUNT)
    trial.hold_exit(seconds, application)
    trial.hold_log(application)
    following = trial.deliver_the_rest(application.ids())
    trial.hold_delivered(application.ids(), counted=counted_as_lost(application) + counted_as_lost(following))


def from_the_start(trial: Trial, **how: Any) -> None:
    """Run an application while the server is down, with the disk in its current state."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, **how)
    hold_kept_or_counted(trial, application, application.end())


def in_mid_life(
    trial: Trial,
    happens: Callable[[Path], object],
    environ: dict[str, str] | None = None,
    before_the_next: Callable[[], object] = lambda: None,
) -> None:
    """While the server is down, cause a fault of the queue after half of the traces."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, pace=PACE, environ=environ or {})
    wait_until(lambda: len(application.invokes()) >= COUNT // 2, NEXT_PROCESS)
    happens(trial.spool_dir)
    seconds = application.end()
    before_the_next()
    hold_kept_or_counted(trial, application, seconds)


def file_limit(trial: Trial) -> None:
    """No file can grow any more."""
    from_the_start(trial, file_limit=FILE_LIMIT)


def full(trial: Trial) -> None:
    """The file system is full."""
    with tmpfs(trial.spool_dir, f"size={SMALL_DISK}"):
        from_the_start(trial)


def deleted(trial: Trial) -> None:
    """The files of the queue are deleted."""
    in_mid_life(trial, shutil.rmtree)


def replaced(trial: Trial) -> None:
    """A file replaces the folder; the folder is restored for the next process."""
    moved = trial.spool_dir.with_name("moved")

    def replace(folder: Path) -> None:
        folder.rename(moved)
        folder.touch()

    def put_back() -> None:
        trial.spool_dir.unlink()
        moved.rename(trial.spool_dir)

    in_mid_life(trial, replace, before_the_next=put_back)


def corrupted_before(trial: Trial) -> None:
    """An earlier process left a queue whose pages were overwritten."""
    _leave_a_spool(trial)
    corrupt(trial.spool_dir)
    from_the_start(trial)


def corrupted_in_mid_life(trial: Trial) -> None:
    """The pages of a queue are overwritten while it is in use."""
    in_mid_life(trial, corrupt)


def newer_schema(trial: Trial) -> None:
    """A newer release of the tracer created the queue: it is not changed."""
    _leave_a_spool(trial)
    database = trial.database
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {NEWER}")
    before = _content(database)
    from_the_start(trial)
    trial.row.hold(database.exists() and _content(database) == before, "the newer spool left as it was")


def _leave_a_spool(trial: Trial) -> None:
    """Run a process that leaves some pending traces."""
    trial.fail(REFUSING)
    trial.start(20, {"durability": "sync", "forwarder": "none"}).end()


def _content(database: Path) -> list[tuple[object, ...]]:
    return rows_of(database, "SELECT user_version, count(*) FROM pragma_user_version, items")


def corrupt(folder: Path) -> None:
    """Overwrite the files of a queue, except the first page, which identifies the database."""
    for file in folder.glob("*.db*"):
        pages = file.stat().st_size // PAGE
        with file.open("r+b", buffering=0) as opened:
            opened.seek(PAGE)
            opened.write(os.urandom(PAGE * max(1, pages - 1)))


def hangs(trial: Trial) -> None:
    """Writes to the queue never return, from the middle of the application's run to its end."""
    on_a_faulty_disk(trial)


def read_only(trial: Trial) -> None:
    """The file system becomes read-only, as ext4 does after an error of the disk."""
    on_a_faulty_disk(trial, DISK_ERRNO=str(errno.EROFS))


def on_a_faulty_disk(trial: Trial, **how: str) -> None:
    """The disk fails for this application only, from the middle of its run on."""
    trigger = trial.folder / "disk-fails"
    preloaded = {"LD_PRELOAD": str(faulty_disk(trial.folder))}
    environ = {**preloaded, "DISK_UNDER": str(trial.spool_dir), "DISK_WHILE": str(trigger), **how}
    in_mid_life(trial, lambda _spool: trigger.touch(), environ)


def faulty_disk(folder: Path) -> Path:
    """Compile the library that makes a disk fail."""
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        raise SkippedError("skipped: gcc on Linux makes the disk that fails")
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory at `folder`, if that is allowed."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        raise SkippedError("skipped: there is no mount")
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise SkippedError("skipped: mounting is not allowed")
    try:
        yield
    finally:
        subprocess.run([umount, "--lazy", folder], check=True)


SCENARIOS = [
    Scenario("disk-file-limit", file_limit, quick=True),
    Scenario("disk-full", full),
    Scenario("disk-read-only", read_only),
    Scenario("disk-hangs", hangs),
    Scenario("spool-deleted", deleted),
    Scenario("spool-replaced", replaced),
    Scenario("spool-corrupted-before", corrupted_before),
    Scenario("spool-corrupted-life", corrupted_in_mid_life),
    Scenario("spool-newer-schema", newer_schema),
]
