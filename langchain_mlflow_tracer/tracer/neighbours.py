"""Joins a tracer with MLflow and OpenTelemetry, once the application has imported them.

An application may import either at any time, so each root looks for them. Nothing is imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.recording.recorder import Recorder

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.bridge import Bridge, Prepare
    from langchain_mlflow_tracer.bridge.opentelemetry import Plain

__all__ = ["Neighbours"]

MLFLOW: Final = "mlflow.tracing"
"""Imported by applications in which a root may begin in a span of MLflow's."""

PROPAGATION: Final = "opentelemetry.trace.propagation.tracecontext"
"""Imported by applications that carry traces from service to service."""

SPANS: Final = "opentelemetry.sdk.trace"
"""Imported by applications in which a root may begin in a span of OpenTelemetry's."""


class Neighbours:
    """What one tracer is joined with so far."""

    def __init__(
        self, recorder: Recorder, prepare: Prepare | None, name: Callable[[bytes], object], log: Log
    ) -> None:
        """See `Bridge` for `prepare` and `name`; without `prepare` MLflow is not joined."""
        self._recorder = recorder
        self._prepare = prepare
        self._name = name
        self._log = log
        self._bridge: Bridge | None = None
        self._plain: Plain | None = None
        self._is_cut = False

    def meet(self) -> Bridge | Plain | None:
        """Return what joins a root that begins now, if anything."""
        if self._bridge is None and self._prepare is not None and not self._is_cut and MLFLOW in sys.modules:
            from langchain_mlflow_tracer.bridge import connect  # noqa: PLC0415 - it needs OpenTelemetry

            self._bridge, self._is_cut = connect(self._recorder, self._prepare, self._name, self._log)
        if (
            self._bridge is None
            and self._plain is None
            and (SPANS in sys.modules or PROPAGATION in sys.modules)
        ):
            from langchain_mlflow_tracer.bridge.opentelemetry import Plain  # noqa: PLC0415 - the same

            self._plain = Plain()
        return self._bridge or self._plain
