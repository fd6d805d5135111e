"""Makes the tracer: settings to a recorder, finished traces to a pipeline; what people call."""

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

__all__ = ["MlflowTracer"]

logger = logging.getLogger("langchain_mlflow_tracer")

_DEAF: Final = "a trace goes to %s, whatever MLflow was told: mlflow has changed (%s)"


class MlflowTracer(Handler):
    """Records LangChain and LangGraph runs and delivers them to MLflow, durably and in the background.

    Pass one in `callbacks`, or `install` it for every chain of the process. One instance may be shared by
    any number of chains, threads and tasks.

    Args:
        tracking_uri: where traces go: an MLflow server (`http://…`, `https://…`) or an embedded store
            (`sqlite:///…`), which needs the extra `mlflow`. Default: `mlflow.set_tracking_uri`, then
            `MLFLOW_TRACKING_URI`, then MLflow's own default, `sqlite:///mlflow.db` in the folder the
            application started in.
        experiment: the experiment's name; it is made if it is not there, in the background. Default:
            `MLFLOW_TRACING_DESTINATION` (an id), `mlflow.set_experiment`, `MLFLOW_EXPERIMENT_NAME`,
            `MLFLOW_EXPERIMENT_ID`, MLflow's default one.
        session_id: the session of traces that do not name one themselves. A call names one by
            `metadata={"session_id": …}` (also `thread_id`, `conversation_id`) in its config.
        user_id: the same for the user (`metadata={"user_id": …}`).
        tags: tags of every trace, beside the config's own.
        metadata: metadata of every trace, beside the config's own.
        sample_rate: the share of traces that is recorded, 0 to 1; a chain inside a span of MLflow's is
            recorded as that one is. Default: `MLFLOW_TRACE_SAMPLING_RATIO`, 1.
        capture: "content" (default) records everything; "metadata" no inputs, outputs or error texts.
        history: "once" (default): in a trace a conversation is told once; where an agent's models and nodes
            are given it again, they show what is new and name the span that has the rest. "full": every span
            has all that it was given.
        redact: True (default) masks common secrets before anything rests on disk; a function from text to
            text runs after that; False records texts as they are.
        durability: "background" (default): a writer thread commits finished traces to the spool, within
            milliseconds. "sync": the thread that ends a root does, before the chain returns.
        forwarder: who delivers from the spool: "process", one of its own that all applications with this
            spool share; "thread", in this process (mlflow then takes 150 MB of it); or "none" (a sidecar
            does). Default "auto": a process, or a thread where none can be run.
        spool_dir: the folder in which traces wait. Default: the user's state folder
            (`$XDG_STATE_HOME/langchain-mlflow-tracer`).
        spool_max_bytes: what may wait on disk, 1 GiB by default; beyond it the oldest go first, counted.
        queue_max_bytes: what may wait in memory for the writer, 32 MiB by default; beyond it new traces
            are dropped, counted.
        exit_timeout: seconds the process may take at its end to deliver what it has, 2 by default; what
            is left stays in the spool for the next process.
        disabled: record nothing at all.

    Every argument has an environment variable, `LANGCHAIN_MLFLOW_TRACER_<NAME>`; arguments come first.

    Raises:
        ConfigurationError: an argument or variable is wrong. Nothing else is ever raised, here or later.
    """

    # What LangChain asks before it calls a hook: true once the tracer is disabled or closed.
    ignore_chain = False
    ignore_llm = False
    ignore_chat_model = False
    ignore_retriever = False
    ignore_agent = False  # tools, to LangChain
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
        given = locals()
        self._begin(load({name: given[name] for name in _ARGUMENTS}))

    def _begin(self, settings: Settings) -> None:
        # The import of the package stays cheap: sqlite3, protobuf and tenacity come with the first tracer.
        from langchain_mlflow_tracer.tracer import registry  # noqa: PLC0415

        self._settings = settings
        self._off = False
        if settings.disabled:
            self._switch_off()
        else:
            with contextlib.suppress(Gone):  # which is said when traces begin
                # It may be no place for traces: better said here.
                current_destination.current_destination(settings)
        pipeline = self._pipeline = None if settings.disabled else registry.shared(settings)
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

    def __repr__(self) -> str:
        return f"<MlflowTracer to {self._settings.destination}{', off' if self._off else ''}>"

    # What people call.

    @property
    def last_trace_id(self) -> str | None:
        """MLflow's id of the trace that this thread or task began last, else of the one that ended last."""
        last = self._last_here.get() or self._last
        return None if last is None else mlflow_id(last)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until what has finished is in MLflow, at most `timeout` seconds.

        Returns True when all that finished since the last flush is there. False when some of it still
        waits (it stays in the spool and will be delivered), or was dropped or refused.
        """
        return self._pipeline is None or self._pipeline.flush(timeout)

    async def aflush(self, timeout: float = 30.0) -> bool:  # noqa: ASYNC109 - the same name as flush has
        """Wait as `flush` does, without holding up the event loop."""
        return await asyncio.to_thread(self.flush, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Flush (for `exit_timeout` seconds unless told) and stop; what is left stays in the spool.

        Runs that are still open are recorded as cut off. A closed tracer records nothing. Returns what
        `flush` would. Called by itself when the process ends; closing twice is harmless.
        """
        if self._pipeline is None or self._off:
            return True
        self._switch_off()
        self._recorder.finish_all()
        from langchain_mlflow_tracer.tracer import registry  # noqa: PLC0415 - it is there by now

        return registry.detach(self._pipeline, self._recorder, timeout)

    def stats(self) -> Stats:
        """Return what became of the traces of this process: recorded, spooled, delivered, waiting, dropped.

        It is told of all tracers that deliver alike, since they share the way. Where the OpenTelemetry
        metrics API is configured, the same figures are instruments of the meter `langchain_mlflow_tracer`.
        """
        return NOTHING if self._pipeline is None else self._pipeline.stats()

    def tracing_headers(self) -> dict[str, str]:
        """Return the HTTP headers by which a service that is called now joins this trace.

        To be called inside a run: in a tool, a node, a function of a chain. `join_trace`, or MLflow's
        `set_tracing_context_from_http_request_headers`, takes them at the other end; so does OpenTelemetry's
        `extract`. Empty outside of runs; in one that is not recorded they say that, and the other end
        records nothing either.
        """
        return trace_context.headers_of(self._recorder, run_info.named_parent())

    def deliver(self, trace: TraceRecord, destination: Destination) -> None:
        """Deliver a finished trace that was made elsewhere (see `protected`); not for applications."""
        if self._pipeline is not None and not self._off:
            self._pipeline.add_credentials(destination)
            trace.destination = destination.to_text()
            self._pipeline.accept(trace)

    # Copies. LangGraph copies configs, and process pools pickle them.

    def __copy__(self) -> Self:
        """Return the tracer itself, as a copy of a logger is: a run may start on one and end on the other."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the tracer itself."""
        return self

    def __reduce__(self) -> tuple[Callable[[Settings], MlflowTracer], tuple[Settings]]:
        """Pickle the settings: another process makes a tracer of its own from them.

        It delivers to where this one delivers now. A user or password in the tracking URI does not travel:
        give credentials by MLflow's environment variables.
        """
        return _unpickled, (self._settings.for_other_process(Destination.from_text(self._destination())),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Close, as patient as at the end of the process; `flush` before it to wait longer."""
        self.close()

    def _switch_off(self) -> None:
        self._off = self.ignore_chain = self.ignore_llm = self.ignore_chat_model = self.ignore_retriever = (
            True
        )
        self.ignore_agent = self.ignore_retry = self.ignore_custom_event = True

    def _trace_begun(self, trace: TraceRecord, tags: Sequence[str], metadata: Mapping[str, object]) -> None:
        """Say of a new trace what is known of the whole, and where it goes."""
        # At the start: under asyncio the end comes in a task of its own, whose context nobody sees.
        self._last_here.set(trace.trace_id)
        trace.destination = self._destination() if "mlflow" in sys.modules else self._own_destination
        if self._pipeline is not None:
            self._pipeline.start_writer()
        trace_metadata.describe(trace, self._settings, tags, metadata)

    def _destination(self) -> str:
        """Where a trace that starts now goes; our own place if MLflow was told of one we do not know."""
        try:
            destination = current_destination.current_destination(self._settings)
        except ConfigurationError as error:
            self._log.report("unknown_destination", "a trace goes to %s: %s", self._own_destination, error)
            return self._own_destination
        except Gone as gone:
            self._log.report("destination_gone", _DEAF, self._own_destination, gone)
            return self._own_destination
        if destination is self._settings.destination:
            return self._own_destination
        return destination.to_text()

    def _is_recorded(self, chance: random.Random) -> bool | SpanLink:
        """Whether a trace that begins now is recorded: by our own rate, and by what MLflow was told.

        A link where another process called this one: to the span there.
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
            # What MLflow does there is foreign; whatever it is, the trace is not lost.
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
    """What MLflow does is foreign: whatever it is, our own rate decides."""


def _unpickled(settings: Settings) -> MlflowTracer:
    """Make a tracer from settings that were resolved in another process, perhaps on another machine."""
    tracer = MlflowTracer.__new__(MlflowTracer)
    tracer._begin(settings.for_this_process())  # noqa: SLF001 - its own class
    return tracer
