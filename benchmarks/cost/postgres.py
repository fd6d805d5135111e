"""Starts a PostgreSQL server with a new database, if PostgreSQL is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.server import free_port, wait_for

__all__ = ["running"]


@contextlib.contextmanager
def running() -> Iterator[str | None]:
    """Yield the address of an empty database; None if PostgreSQL is not installed (Debian's `postgresql`)."""
    initdb = shutil.which("initdb") or max(
        map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=""
    )
    if not initdb:
        yield None
        return
    binaries = Path(initdb).resolve().parent
    user = "postgres" if os.getuid() == 0 else None  # it does not run as root
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, user)
        data, port = f"{folder}/data", str(free_port())
        make = [str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", "postgres"]
        subprocess.run(make, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        command = [str(binaries / "postgres"), "-D", data, "-p", port, "-k", folder, "-h", "127.0.0.1"]
        process = subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: Path(folder, f".s.PGSQL.{port}").exists(), 30)
            yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait()
