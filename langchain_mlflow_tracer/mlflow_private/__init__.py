"""Holds every private name of MLflow that the package uses; a file for each purpose.

Each file raises `Gone` if one is not there, or is not what it was (all are in mlflow 3.12 to 3.17). What
rests on it is then switched off with one warning, and chains are traced as without it. Nothing here imports
mlflow where nobody else has.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

__all__ = ["Gone", "Wrap", "gone", "imported", "is_being_imported", "made_with"]


Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a method from what it was."""


class Gone(Exception):  # noqa: N818 - what has happened to a name
    """A private name of MLflow is not where it was; the message names it."""


class _Names:
    # No generator: at each root this is entered, and one takes a microsecond.

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ImportError | AttributeError | TypeError | LookupError):
            raise Gone(f"{type(error).__name__}: {error}") from error


_NAMES: Final = _Names()


def gone() -> _Names:
    """Say of what is raised in its block when a name is not there that it is gone.

    Raises:
        Gone: something is missing, or is not what it was.
    """
    return _NAMES


def is_being_imported(module: ModuleType | None) -> bool:
    """Whether a module is there, but not all of it yet: another thread imports it."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def imported(name: str) -> ModuleType | None:
    """Return a module that somebody has imported, whole; else None."""
    module = sys.modules.get(name)
    return None if is_being_imported(module) else module


def made_with(kind: type, *attributes: str) -> None:
    """See that objects of a class get such attributes when they are made: none is made for it.

    Raises:
        AttributeError: one is not among them.
    """
    made: object = inspect.unwrap(kind.__init__)  # type: ignore[misc]  # of that very class
    known: tuple[str, ...] = getattr(made, "__code__").co_names  # noqa: B009 - functions have it, objects not
    for attribute in attributes:
        if attribute not in known:
            raise AttributeError(f"{kind.__name__} has no {attribute}")
