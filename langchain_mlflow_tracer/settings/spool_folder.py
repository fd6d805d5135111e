"""Finds the folder of the spool, and checks that it can be written to."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.settings.options import PREFIX

__all__ = ["DISK_PATIENCE", "is_foreign", "is_writable", "spool_dir", "spool_dir_of_environment", "user_id"]

DISK_PATIENCE: Final = 1.0
"""Seconds to wait until a disk has made a folder and a file: a disk that needs longer hangs."""


def spool_dir(folder: str | None, environ: Mapping[str, str], origin: str) -> Path:
    """Return `folder`, or the default one for None; it is made if it does not exist.

    Raises:
        ConfigurationError: this process cannot write to it; `origin` is the name of the setting.
    """
    path = _expanded(folder) if folder is not None else _default(environ, is_writable)
    if (problem := _unwritable(path)) is None:
        return path
    name = "spool_dir" if folder is None else origin
    raise ConfigurationError(name, folder, f"expected a folder this process can write to ({problem})")


def spool_dir_of_environment(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of a tracer without arguments. CLI commands read it, so nothing is made."""
    folder = environ.get(f"{PREFIX}_SPOOL_DIR")
    return _expanded(folder) if folder else _default(environ, _seems_writable)


def is_writable(folder: Path) -> bool:
    """Whether this process can write to `folder`, which is made if it does not exist."""
    return _unwritable(folder) is None


def is_foreign(folder: Path) -> bool:
    """Whether `folder` belongs to a user other than this one and root: they could read what we write."""
    return folder.stat().st_uid not in {user_id(), 0}


def user_id() -> int:
    """Return the number of this user; 0 on Windows, where every file belongs to 0 for Python."""
    return os.getuid() if hasattr(os, "getuid") else 0


def _expanded(folder: str) -> Path:
    return Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111 - Path's raises for an unknown user


def _default(environ: Mapping[str, str], usable: Callable[[Path], bool]) -> Path:
    """Return a folder in the user's state folder (XDG base directories), or else a temporary one."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is no home
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    folder = Path(state).absolute() / "langchain-mlflow-tracer"
    if usable(folder):
        return folder
    return Path(tempfile.gettempdir()) / f"langchain-mlflow-tracer-{user_id()}"


def _seems_writable(folder: Path) -> bool:
    """Whether `folder`, or the folder it would be made in, looks writable; nothing is made."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        foreign = nearest == folder and is_foreign(folder)
        return nearest.is_dir() and not foreign and os.access(nearest, os.W_OK | os.X_OK)
    except (OSError, ValueError, StopIteration):
        return False


def _unwritable(folder: Path) -> str | None:
    """Return why this process cannot write to `folder`; None if it can, or if the disk hangs."""
    problems: list[str | None] = []
    # In a thread, because a disk that hangs must not stop the application from starting. The spool itself
    # handles such a disk later.
    probe = threading.Thread(target=lambda: problems.append(_problem(folder)), daemon=True)
    probe.start()
    probe.join(DISK_PATIENCE)
    return problems[0] if problems else None


def _problem(folder: Path) -> str | None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a shared temporary folder another user may have made it first, to read what we write.
        if is_foreign(folder):
            return f"{folder} belongs to another user"
        with tempfile.TemporaryFile(dir=folder):
            return None
    except (OSError, ValueError) as error:  # ValueError: a null character
        return f"{folder}: {getattr(error, 'strerror', None) or error}"
