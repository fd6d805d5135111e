"""Installs one tracer for every chain of the process, so that no callbacks need to be passed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, cast

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.tracer.tracer import MlflowTracer

__all__ = ["install", "install_lazily", "installed", "uninstall"]

logger = logging.getLogger(__name__)


class _Installed:
    """The installed tracer, which LangChain reads like a context variable.

    A real context variable is set in one context only: threads that started before `install` would not
    see it. LangChain calls nothing but `get` (langchain-core 1.7, `_configure`).
    """

    def __init__(self) -> None:
        self.tracer: MlflowTracer | None = None
        self.wanted = False
        self.registered = False

    def get(self) -> MlflowTracer | None:
        if self.wanted:
            tracer = _make_tracer()
            if self.wanted:  # no other thread installed or uninstalled a tracer meanwhile
                self.put(tracer)
        return self.tracer

    def put(self, tracer: MlflowTracer | None) -> MlflowTracer | None:
        """Install a tracer, or none, and return the previous one."""
        before, self.tracer, self.wanted = self.tracer, tracer, False
        return before


def _make_tracer() -> MlflowTracer | None:
    """Make a tracer inside the first chain, which must not fail because an environment variable is wrong."""
    try:
        return MlflowTracer()
    except ConfigurationError as error:
        logger.error("chains are not traced: %s", error)  # noqa: TRY400 - the message is enough
        return None


_installed: Final = _Installed()


def install(tracer: MlflowTracer | None = None) -> MlflowTracer:
    """Trace every chain of the process with `tracer`, by default a new `MlflowTracer()`, and return it.

    A chain that has another tracer in its callbacks is recorded by that tracer only. A second call replaces
    the installed tracer.

    Raises:
        ConfigurationError: the settings of the new tracer are wrong.
    """
    _installed.wanted = False
    tracer = MlflowTracer() if tracer is None else tracer
    _installed.put(tracer)
    _register()
    return tracer


def install_lazily() -> None:
    """Install a new tracer when the first chain runs, for `LANGCHAIN_MLFLOW_TRACER=true`."""
    _installed.wanted = True
    _register()


def uninstall() -> MlflowTracer | None:
    """Undo `install`, and return the tracer, which is not closed; None if none was installed."""
    return _installed.put(None)


@contextmanager
def installed(tracer: MlflowTracer) -> Iterator[None]:
    """Install `tracer` for a while, and put back afterwards what was installed before."""
    before = _installed.tracer, _installed.wanted
    install(tracer)
    try:
        yield
    finally:
        _installed.tracer, _installed.wanted = before


def _register() -> None:
    if not _installed.registered:
        # Only here: this imports langsmith, which takes a third of a second.
        from langchain_core.tracers.context import register_configure_hook  # noqa: PLC0415

        _installed.registered = True
        variable = cast("ContextVar[MlflowTracer | None]", _installed)
        register_configure_hook(variable, inheritable=True, handle_class=MlflowTracer)
