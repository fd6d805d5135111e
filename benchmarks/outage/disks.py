"""Disks that are full, gone, read-only, broken or hang: what cannot be kept is counted and said."""

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
"""Traces in each scenario."""

PACE = 0.02
"""Seconds between the invokes of an application in whose middle something happens."""

FILE_LIMIT = 512 * 1024
"""Bytes that a file may have where disks are full: less than the traces need."""

SMALL_DISK = "1m"
"""Size of a file system that is soon full."""

PAGE = 4096
"""Bytes of a page of SQLite."""

NEWER = 999
"""A schema that no version of today knows."""


def hold_kept_or_counted(trial: Trial, application: Application, seconds: float) -> None:
    """The application was not held; each trace is delivered by the next process, or counted as lost."""
    trial.hold_results(application, COUNT)
    trial.hold_exit(seconds, application)
    trial.hold_log(application)
    following = trial.deliver_the_rest(application.ids())
    trial.hold_delivered(application.ids(), counted=counted_as_lost(application) + counted_as_lost(following))


def from_the_start(trial: Trial, **how: Any) -> None:
    """Run an application with the server down and the disk as it is."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, **how)
    hold_kept_or_counted(trial, application, application.end())


def in_mid_life(
    trial: Trial,
    happens: Callable[[Path], object],
    environ: dict[str, str] | None = None,
    before_the_next: Callable[[], object] = lambda: None,
) -> None:
    """With the server down, something happens to the spool when half of the traces are made."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, pace=PACE, environ=environ or {})
    wait_until(lambda: len(application.invokes()) >= COUNT // 2, NEXT_PROCESS)
    happens(trial.spool_dir)
    seconds = application.end()
    before_the_next()
    hold_kept_or_counted(trial, application, seconds)


def file_limit(trial: Trial) -> None:
    """No file may grow any more."""
    from_the_start(trial, file_limit=FILE_LIMIT)


def full(trial: Trial) -> None:
    """The file system is full."""
    with tmpfs(trial.spool_dir, f"size={SMALL_DISK}"):
        from_the_start(trial)


def deleted(trial: Trial) -> None:
    """Somebody cleans up."""
    in_mid_life(trial, shutil.rmtree)


def replaced(trial: Trial) -> None:
    """Where the folder was, there is a file, until somebody puts it back for the next process."""
    moved = trial.spool_dir.with_name("moved")

    def replace(folder: Path) -> None:
        folder.rename(moved)
        folder.touch()

    def put_back() -> None:
        trial.spool_dir.unlink()
        moved.rename(trial.spool_dir)

    in_mid_life(trial, replace, before_the_next=put_back)


def corrupted_before(trial: Trial) -> None:
    """An earlier process left a spool whose pages are garbage now."""
    _leave_a_spool(trial)
    corrupt(trial.spool_dir)
    from_the_start(trial)


def corrupted_in_mid_life(trial: Trial) -> None:
    """The pages of a spool become garbage while it is in use."""
    in_mid_life(trial, corrupt)


def newer_schema(trial: Trial) -> None:
    """A later version of the tracer made the spool: it is left as it is."""
    _leave_a_spool(trial)
    database = trial.database
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {NEWER}")
    before = _content(database)
    from_the_start(trial)
    trial.row.hold(database.exists() and _content(database) == before, "the newer spool left as it was")


def _leave_a_spool(trial: Trial) -> None:
    """Let a process leave some traces behind."""
    trial.fail(REFUSING)
    trial.start(20, {"durability": "sync", "forwarder": "none"}).end()


def _content(database: Path) -> list[tuple[object, ...]]:
    return rows_of(database, "SELECT user_version, count(*) FROM pragma_user_version, items")


def corrupt(folder: Path) -> None:
    """Write garbage over every file of a spool but the first page: it says that this is a database."""
    for file in folder.glob("*.db*"):
        pages = file.stat().st_size // PAGE
        with file.open("r+b", buffering=0) as opened:
            opened.seek(PAGE)
            opened.write(os.urandom(PAGE * max(1, pages - 1)))


def hangs(trial: Trial) -> None:
    """Writes to the spool never return, from the middle of the application's life to its end."""
    on_a_faulty_disk(trial)


def read_only(trial: Trial) -> None:
    """The file system becomes read-only, as ext4 does after an error of the disk."""
    on_a_faulty_disk(trial, DISK_ERRNO=str(errno.EROFS))


def on_a_faulty_disk(trial: Trial, **how: str) -> None:
    """The disk under the spool fails this application from the middle of its life on, and no other."""
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
    """Mount a file system in memory at `folder`, where that is allowed."""
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
