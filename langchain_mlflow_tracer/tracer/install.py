"""Puts one tracer on every chain of the process, without callbacks being passed."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final, cast

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.tracer.tracer import MlflowTracer

__all__ = ["install", "install_lazily", "uninstall"]

logger = logging.getLogger(__name__)


class _Installed:
    """The tracer that is installed, read by LangChain as it reads a context variable.

    A real context variable is set in one context only: chains in threads that started before would not see
    it. LangChain asks for nothing but `get` (langchain-core 1.7, `_configure`).
    """

    def __init__(self) -> None:
        self.tracer: MlflowTracer | None = None
        self.wanted = False
        self.registered = False

    def get(self) -> MlflowTracer | None:
        if self.wanted:
            made = _made()
            if self.wanted:  # nobody installed another one or uninstalled meanwhile
                self.put(made)
        return self.tracer

    def put(self, tracer: MlflowTracer | None) -> MlflowTracer | None:
        """Install a tracer, or none, and return the one that was."""
        before, self.tracer, self.wanted = self.tracer, tracer, False
        return before


def _made() -> MlflowTracer | None:
    """Make a tracer inside somebody's first chain, which must not fail because a variable is wrong."""
    try:
        return MlflowTracer()
    except ConfigurationError as error:
        logger.error("no chain is traced: %s", error)  # noqa: TRY400 - the message says it all
        return None


_installed: Final = _Installed()


def install(tracer: MlflowTracer | None = None) -> MlflowTracer:
    """Trace every chain of the process with `tracer`, or a new `MlflowTracer()`; return it.

    A chain that is given a tracer of its own is recorded by that one alone. Installing again replaces the
    tracer that was installed.
    """
    _installed.wanted = False
    installed = MlflowTracer() if tracer is None else tracer
    _installed.put(installed)
    _register()
    return installed


def install_lazily() -> None:
    """Install a new tracer when the first chain runs: what `LANGCHAIN_MLFLOW_TRACER=true` asks for."""
    _installed.wanted = True
    _register()


def uninstall() -> MlflowTracer | None:
    """Take back what `install` did and return the tracer, which is not closed."""
    return _installed.put(None)


def _register() -> None:
    if not _installed.registered:
        # It imports langsmith, a third of a second; a chain would, but not everybody installs a tracer.
        from langchain_core.tracers.context import register_configure_hook  # noqa: PLC0415

        _installed.registered = True
        variable = cast("ContextVar[MlflowTracer | None]", _installed)
        register_configure_hook(variable, inheritable=True, handle_class=MlflowTracer)
