"""`MlflowTracer`: the class that users call. It connects a recorder with a pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from langchain_mlflow_tracer.core.errors import ConfigurationError
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanLink, TraceRecord, mlflow_id
from langchain_mlflow_tracer.mlflow_private import Gone
from langchain_mlflow_tracer.recording import run_info, trace_context
from langchain_mlflow_tracer.recording.handler import Handler
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.options import Capture, Durability, Forwarding, History, Redact
from langchain_mlflow_tracer.settings.settings import Settings, load
from langchain_mlflow_tracer.tracer import current_destination, trace_metadata
from langchain_mlflow_tracer.tracer.neighbours import Neighbours
from langchain_mlflow_tracer.tracer.stats import NOTHING, Stats

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.bridge import Bridge
    from langchain_mlflow_tracer.bridge.opentelemetry import Plain
    from langchain_mlflow_tracer.tracer.sink import TraceSink

__all__ = ["MlflowTracer"]

logger = logging.getLogger("langchain_mlflow_tracer")

_IGNORED: Final = (
    "ignoring the destination set in MLflow: this MLflow version is not supported (%s); traces go to %s"
)

_UNSUPPORTED: Final = "the destination set in MLflow is not supported (%s); traces go to %s"


class MlflowTracer(Handler):
    """Records LangChain and LangGraph runs as MLflow traces, and sends them in the background.

    Pass it in `callbacks`, or `install` it for every chain of the process. Any number of chains, threads and
    tasks can share one tracer. Traces wait in a queue on disk (the spool) until MLflow has stored them.

    Args:
        tracking_uri: where traces go: an MLflow server (`http://…`, `https://…`) or an embedded store
            (`sqlite:///…`), which needs the extra `mlflow`. Default: `mlflow.set_tracking_uri`, then
            `MLFLOW_TRACKING_URI`, then MLflow's own default, `sqlite:///mlflow.db` in the folder the
            application started in.
        experiment: the experiment's name; it is created in the background if it does not exist. Default:
            `MLFLOW_TRACING_DESTINATION` (an id), `mlflow.set_experiment`, `MLFLOW_EXPERIMENT_NAME`,
            `MLFLOW_EXPERIMENT_ID`, MLflow's default one.
        session_id: the session of each trace whose call does not set one. A call sets it with
            `metadata={"session_id": …}` (or `thread_id`, `conversation_id`) in its config.
        user_id: the user of each trace whose call does not set one with `metadata={"user_id": …}`.
        tags: tags of every trace, in addition to those of the config.
        metadata: metadata of every trace, in addition to those of the config.
        sample_rate: the share of traces that is recorded, from 0 to 1. A chain inside a span of MLflow's is
            recorded if that span is. Default: `MLFLOW_TRACE_SAMPLING_RATIO`, then 1.
        capture: "content" (default) records everything; "metadata" records no inputs, outputs or error texts.
        history: "once" (default) stores each message of a conversation once in a trace: where a model or node
            gets the same messages again, its span shows the new ones and names the span that has the others.
            "full" stores all messages in every span.
        redact: True (default) masks common secrets before a trace is written to disk. A function from text to
            text runs after that masking. False records texts unchanged.
        durability: "background" (default): a writer thread writes finished traces to the spool, within
            milliseconds. "sync": the thread that ends a root waits for that before the chain returns.
        forwarder: what sends the traces: "process" (a sender process, shared by all applications that use
            this spool), "thread" (a thread of this process; mlflow then adds 150 MB to it) or "none" (this
            application does not send; a sidecar does). Default "auto": a process, or a thread where no
            process can be started.
        spool_dir: the folder of the spool. Default: `langchain-mlflow-tracer` in the user's state folder
            (`$XDG_STATE_HOME`).
        spool_max_bytes: the size limit of the spool in bytes, 1 GiB by default. If it is reached, the oldest
            traces are dropped and counted.
        queue_max_bytes: the size limit in bytes of finished traces in memory, before they are written to the
            spool; 32 MiB by default. If it is reached, new traces are dropped and counted.
        exit_timeout: the longest time in seconds to send traces when the process exits, 2 by default. Traces
            that are not sent stay in the spool, and the next process sends them.
        disabled: True records nothing. Default: False.

    Every argument can also be set by an environment variable, `LANGCHAIN_MLFLOW_TRACER_<NAME>`. An argument
    overrides its variable.

    Raises:
        ConfigurationError: an argument or variable is wrong. No other error is raised, here or later.
    """

    # LangChain reads these before it calls a hook: True once the tracer is disabled or closed.
    ignore_chain = False
    ignore_llm = False
    ignore_chat_model = False
    ignore_retriever = False
    ignore_agent = False  # LangChain reads this one for tools
    ignore_retry = False
    ignore_custom_event = False

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        sample_rate: float | None = None,
        capture: Capture | None = None,
        history: History | None = None,
        redact: Redact | None = None,
        durability: Durability | None = None,
        forwarder: Forwarding | None = None,
        spool_dir: str | Path | None = None,
        spool_max_bytes: int | None = None,
        queue_max_bytes: int | None = None,
        exit_timeout: float | None = None,
        disabled: bool | None = None,
    ) -> None:
        arguments = locals()
        self._begin(load({name: arguments[name] for name in _ARGUMENTS}))

    def _begin(self, settings: Settings) -> None:
        self._settings = settings
        self._off = False
        if settings.disabled:
            self._switch_off()
        else:
            # Raises an error here, not in the first chain, if the destination cannot be used.
            with contextlib.suppress(Gone):  # which is logged when a trace starts
                current_destination.current_destination(settings)
        pipeline = self._pipeline = None if settings.disabled else self._connect(settings)
        log = pipeline.log if pipeline is not None else Log(logger)
        self._own_destination = settings.destination.to_text()
        self._bridge: Bridge | Plain | None = None
        self._last: bytes | None = None
        self._last_here: ContextVar[bytes | None] = ContextVar("last_trace_id", default=None)
        recorder = Recorder(
            self._finished,
            # Not the module's functions: an application that seeds them must not decide what is traced.
            sample=functools.partial(self._is_recorded, random.Random()),  # noqa: S311 - no secret
            count=log.count,
        )
        self._record_into(recorder, log, captures_content=settings.capture == "content")
        if pipeline is not None:
            pipeline.attach(recorder)
        trace_context.carry(recorder)
        prepare = None if pipeline is None else pipeline.prepared
        self._neighbours = Neighbours(recorder, prepare, self._last_here.set, log)

    def _connect(self, settings: Settings) -> TraceSink:
        """Return what takes the finished traces."""
        # The import of the package stays cheap: sqlite3, protobuf and tenacity come with the first tracer.
        from langchain_mlflow_tracer.tracer import registry  # noqa: PLC0415

        return registry.shared(settings)

    def __repr__(self) -> str:
        return f"<MlflowTracer to {self._settings.destination}{', off' if self._off else ''}>"

    # What users call.

    @property
    def last_trace_id(self) -> str | None:
        """The MLflow id of the trace that this thread or task started last; None before the first trace.

        A thread or task that started none gets the id of the trace that ended last in this process.
        """
        last = self._last_here.get() or self._last
        return None if last is None else mlflow_id(last)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until MLflow has stored all finished traces, at most `timeout` seconds.

        Returns True if all traces that finished since the last flush are stored. False if some are still
        pending (they stay in the spool and are sent later), or were dropped or rejected. Raises nothing.
        """
        return self._pipeline is None or self._pipeline.flush(timeout)

    async def aflush(self, timeout: float = 30.0) -> bool:  # noqa: ASYNC109 - the same name as flush has
        """Do the same as `flush` without blocking the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Flush for at most `timeout` seconds, `exit_timeout` by default, and stop recording.

        Runs that have not ended are recorded as cut off. Traces that are not sent stay in the spool. Returns
        the same as `flush`. Python calls it when the process exits. A second call does nothing.
        """
        if self._pipeline is None or self._off:
            return True
        self._switch_off()
        self._recorder.finish_all()
        return self._pipeline.release(self._recorder, timeout)

    def stats(self) -> Stats:
        """Return the number of traces of this process that are recorded, sent, pending, rejected and dropped.

        Tracers with the same spool and sending options share these figures. If the application configures
        OpenTelemetry metrics, the meter `langchain_mlflow_tracer` has them too.
        """
        return NOTHING if self._pipeline is None else self._pipeline.stats()

    def tracing_headers(self) -> dict[str, str]:
        """Return the HTTP headers to send to another service, so that its runs become part of this trace.

        Call it inside a run: in a tool, a node or a function of a chain; elsewhere it returns no headers. The
        other service passes the headers to `join_trace`, to MLflow's
        `set_tracing_context_from_http_request_headers` or to OpenTelemetry's `extract`. In a run that is not
        recorded, the headers make the other service record nothing either.
        """
        return trace_context.headers_of(self._recorder, run_info.named_parent())

    def deliver(self, trace: TraceRecord, destination: Destination) -> None:
        """Send a finished trace that MLflow made (see `protect_mlflow_tracing`). Not for applications."""
        if self._pipeline is not None and not self._off:
            self._pipeline.add_credentials(destination)
            trace.destination = destination.to_text()
            self._pipeline.accept(trace)

    # Copies. LangGraph copies configs, and process pools pickle them.

    def __copy__(self) -> Self:
        """Return the tracer itself: a run may start on a copy and end on the original."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the tracer itself."""
        return self

    def __reduce__(self) -> tuple[Callable[..., MlflowTracer], tuple[object, ...]]:
        """Pickle the settings, from which another process makes its own tracer with the same destination.

        A user or password in the tracking URI is not pickled: set MLflow's environment variables there.
        """
        return _unpickled, (self._settings.for_other_process(Destination.from_text(self._destination())),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Close with `exit_timeout`; to wait longer, call `flush` before the end of the block."""
        self.close()

    def _switch_off(self) -> None:
        self._off = self.ignore_chain = self.ignore_llm = self.ignore_chat_model = self.ignore_retriever = (
            True
        )
        self.ignore_agent = self.ignore_retry = self.ignore_custom_event = True

    def _trace_begun(self, trace: TraceRecord, tags: Sequence[str], metadata: Mapping[str, object]) -> None:
        """Fill a new trace with its destination, session, user, tags and metadata."""
        # At the start: under asyncio a run may end in another task, and what is set there is lost with it.
        self._last_here.set(trace.trace_id)
        trace.destination = self._destination() if "mlflow" in sys.modules else self._own_destination
        if self._pipeline is not None:
            self._pipeline.start_writer()
        trace_metadata.describe(trace, self._settings, tags, metadata)

    def _destination(self) -> str:
        """Where a trace that starts now goes: our own destination if that of MLflow is not supported."""
        try:
            destination = current_destination.current_destination(self._settings)
        except ConfigurationError as error:
            self._log.report("unknown_destination", _UNSUPPORTED, error, self._own_destination)
            return self._own_destination
        except Gone as gone:
            self._log.report("destination_gone", _IGNORED, gone, self._own_destination)
            return self._own_destination
        if destination is self._settings.destination:
            return self._own_destination
        return destination.to_text()

    def _is_recorded(self, chance: random.Random) -> bool | SpanLink:
        """Whether a trace that starts now is recorded, by what is around it, else by our own rate.

        If another process called this one: a link to the span there.
        """
        rate = self._settings.sample_rate
        self._bridge = self._neighbours.meet()
        decided = None if self._bridge is None else attempt(self._bridge.decided, _undecided)
        if decided is not False:
            decided = trace_context.current_caller() or decided
        if isinstance(decided, trace_context.Caller):
            return decided.is_sampled and decided.span
        return rate >= 1.0 or chance.random() < rate if decided is None else decided

    def _finished(self, trace: TraceRecord) -> None:
        self._last = trace.trace_id
        ours: TraceRecord | None = trace
        if self._bridge is not None:
            # This calls MLflow, which may raise any error: the trace must not be lost.
            ours = attempt(self._bridge.finished, lambda _: trace, trace)
            self._last = trace.trace_id
        if self._pipeline is not None and ours is not None:
            self._pipeline.accept(ours)


_ARGUMENTS = (
    "tracking_uri", "experiment", "session_id", "user_id", "tags", "metadata", "sample_rate", "capture",
    "history", "redact", "durability", "forwarder", "spool_dir", "spool_max_bytes", "queue_max_bytes",
    "exit_timeout", "disabled",
)  # fmt: skip


def _undecided(_: BaseException) -> None:
    """MLflow raised an error: our own rate decides."""


def _unpickled(settings: Settings) -> MlflowTracer:
    """Make a tracer from settings that another process pickled, perhaps on another machine."""
    tracer = MlflowTracer.__new__(MlflowTracer)
    tracer._begin(settings.for_this_process())  # noqa: SLF001 - its own class
    return tracer
