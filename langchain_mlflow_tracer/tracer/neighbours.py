"""Joins a tracer with MLflow once it is imported, and with OpenTelemetry once a root starts in a span of it.

An application may import either at any time, so each root checks. Nothing is imported before: the bridge
takes tens of milliseconds on the caller's thread, and langchain-core itself imports OpenTelemetry's SDK.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.recording.recorder import Recorder

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.bridge import Bridge, Prepare
    from langchain_mlflow_tracer.bridge.opentelemetry import Plain

__all__ = ["Neighbours"]

MLFLOW: Final = "mlflow.tracing"
"""Imported by applications in which a root may start in a span of MLflow's."""

OPENTELEMETRY: Final = "opentelemetry.trace"
"""Imported by applications in which a root may start in a span of OpenTelemetry's, or of another process."""


class Neighbours:
    """The bridges of one tracer, each made when the first root needs it."""

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
        """Return the bridge for a root that starts now, if it needs one."""
        if self._bridge is None and self._prepare is not None and not self._is_cut and MLFLOW in sys.modules:
            from langchain_mlflow_tracer.bridge import connect  # noqa: PLC0415 - it needs OpenTelemetry

            self._bridge, self._is_cut = connect(self._recorder, self._prepare, self._name, self._log)
        if self._bridge is None and self._plain is None and attempt(_is_in_span, lambda _: False):
            from langchain_mlflow_tracer.bridge.opentelemetry import Plain  # noqa: PLC0415 - the same

            self._plain = Plain()
        return self._bridge or self._plain


def _is_in_span() -> bool:
    """Whether OpenTelemetry has a current span: one of this process, or one whose ids a caller sent."""
    # A name may be missing while another thread imports it: `attempt` catches that; there is no span yet.
    api = sys.modules.get(OPENTELEMETRY)
    return api is not None and bool(api.get_current_span().get_span_context().is_valid)
