"""Translates LangChain's callbacks into recorder calls: start, event, end and fail.

Every hook runs inside one guard, so that no exception of a hook reaches the chain.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from langchain_mlflow_tracer.core import prompts
from langchain_mlflow_tracer.core.attributes import TOOL_CALL_ID
from langchain_mlflow_tracer.core.guard import Guard
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording import langgraph, run_info
from langchain_mlflow_tracer.recording.content import inputs_outputs, langgraph_values
from langchain_mlflow_tracer.recording.content.freeze import NODE_COST, flat
from langchain_mlflow_tracer.recording.content.messages import MessageFreezer
from langchain_mlflow_tracer.recording.failure import failure
from langchain_mlflow_tracer.recording.fallbacks import FALLBACKS, Fallbacks
from langchain_mlflow_tracer.recording.models.embedding_span import EmbeddingSpans
from langchain_mlflow_tracer.recording.models.embeddings import begin_retriever
from langchain_mlflow_tracer.recording.models.model_call import ModelCall
from langchain_mlflow_tracer.recording.models.model_span import ModelSpans
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.recording.trace_context import Caller

__all__ = ["Bridge", "Handler"]

_EXITS: Final = frozenset({Outcome.INTERRUPTED, Outcome.COMPLETED})
"""Outcomes of LangGraph's exceptions that are no errors: their argument is why a node was left."""


class Bridge(Protocol):
    """Joins runs with MLflow's own spans (see `bridge`); a tracer has none where mlflow is not used."""

    def started(self, run_id: UUID, span: SpanRecord, trace: TraceRecord | None) -> None:
        """Note that a run started; `trace` is its trace if it is a root."""

    def dropped(self, run_id: UUID, span_type: str) -> None:
        """Note that a run started that is not recorded."""

    def decided(self) -> bool | Caller | None:
        """Return whether a trace that starts now is recorded, or its caller in another process.

        None where neither MLflow nor a caller has decided that.
        """

    def finished(self, trace: TraceRecord) -> TraceRecord | None:
        """Return a trace as it is to be sent; None when MLflow sends it itself."""


class Handler(BaseCallbackHandler):
    """Records runs by LangChain's hooks; subclasses must call `_record_into`."""

    # On the thread and in the task that runs the chain: starts come before ends, and contexts are real.
    run_inline = True
    raise_error = False

    embedding_spans: EmbeddingSpans
    """Records calls of embedding models, which the HTTP client reports."""
    _recorder: Recorder
    _log: Log
    _guard: Guard
    _captures_content: bool
    _models: ModelSpans
    _fallbacks: Fallbacks
    _is_graph_handler = False
    _bridge: Bridge | None = None

    def _record_into(self, recorder: Recorder, log: Log, *, captures_content: bool) -> None:
        """Record into `recorder`. Call this once, before any hook."""
        self._recorder, self._log, self._guard = recorder, log, Guard(log)
        self._captures_content = captures_content
        self._fallbacks = Fallbacks(recorder.find, recorder.failed_below)
        self._models = ModelSpans(
            is_open=recorder.is_open, now=recorder.now, add_event=recorder.event, log=log,
            with_content=captures_content,
        )  # fmt: skip
        self.embedding_spans = EmbeddingSpans(
            guard=self._guard, log=log, start_inside=self._start_embedding, copy=self._copy_plain,
            resume_run=recorder.resume, add_event=recorder.event, end_run=recorder.end,
            fail_run=recorder.fail, is_run_open=recorder.is_open, with_text=captures_content,
        )  # fmt: skip

    def _trace_begun(self, trace: TraceRecord, tags: Sequence[str], metadata: Mapping[str, object]) -> None:
        """Set the session, user, tags and destination of a new trace; subclasses do."""

    # Chains, prompts, parsers, graphs and agents.

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: dict[str, Any] | Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_type: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a chain, or a prompt, parser, graph, node or agent."""
        with self._guard:
            if not self._is_graph_handler and "langgraph.callbacks" in sys.modules:
                self._become_graph_handler()
            name = name or run_info.name(serialized)
            span_type = (
                run_info.chain_type(name, run_type, tags or (), metadata or {})
                if run_type or metadata
                else "CHAIN"
            )

            span = self._start(run_id, parent_run_id, name, span_type, tags, metadata)
            if span is None:
                return
            if run_type == "prompt":
                span.attributes["lc.run_type"] = "prompt"
            span.inputs = self._shown(span, inputs)

    def on_chain_end(self, outputs: dict[str, Any] | Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a chain; the inputs of a streamed one are known only now."""
        with self._guard:
            self._recorder.end(run_id.int, self._end_chain, outputs, kwargs)

    def _end_chain(self, span: SpanRecord, outputs: object, options: Mapping[str, Any]) -> None:
        if "inputs" in options:
            self._set_streamed_inputs(span, options["inputs"])
        span.outputs = self._shown(span, outputs)
        langgraph.add_interrupts(span)

    # Models.

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a chat model."""
        with self._guard:
            sent = messages[0] if len(messages) == 1 else list(chain.from_iterable(messages))
            name = kwargs.get("name") or run_info.name(serialized)
            span = self._start(run_id, parent_run_id, name, "CHAT_MODEL", tags, metadata)
            if span is None:
                return
            invocation = self._models.start(run_id.int, span, serialized, metadata, kwargs)
            if parent_run_id is not None and self._recorder.has_failures:
                self._fallbacks.number_model(span, parent_run_id.int, metadata or {})
            if self._captures_content:
                copy = MessageFreezer(span.memory)
                span.inputs = inputs_outputs.chat_inputs(invocation, sent, copy)
                span.size += copy.size

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a plain LLM."""
        with self._guard:
            name = kwargs.get("name") or run_info.name(serialized)
            span = self._start(run_id, parent_run_id, name, "LLM", tags, metadata)
            if span is None:
                return
            invocation = self._models.start(run_id.int, span, serialized, metadata, kwargs)
            self._copy(span, "inputs", functools.partial(inputs_outputs.llm_inputs, invocation), prompts)

    def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Take a chunk of a stream; it does not become an event."""
        with self._guard:
            run = self._recorder.find(run_id.int)
            if run is not None:
                call = run[0].gathered or self._models.call(run_id.int, run[0])
                if isinstance(call, ModelCall):
                    call.add(token)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """End a model call of either kind."""
        with self._guard:
            self._recorder.end(run_id.int, self._models.end, response)

    # Tools and retrievers.

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a tool."""
        with self._guard:
            name = kwargs.get("name") or run_info.name(serialized)
            span = self._start(run_id, parent_run_id, name, "TOOL", tags, metadata)
            if span is None:
                return
            if kwargs.get("tool_call_id"):
                span.attributes[TOOL_CALL_ID] = str(kwargs["tool_call_id"])
            self._copy_plain(span, "inputs", input_str if inputs is None else inputs)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool."""
        with self._guard:
            self._recorder.end(run_id.int, self._end_tool, output)

    def _end_tool(self, span: SpanRecord, output: object) -> None:
        span.attributes.update(inputs_outputs.tool_attributes(output))
        self._copy(span, "outputs", inputs_outputs.tool_output, output)

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a retriever."""
        with self._guard:
            name = kwargs.get("name") or run_info.name(serialized)
            span = self._start(run_id, parent_run_id, name, "RETRIEVER", tags, metadata)
            begin_retriever(self.embedding_spans, run_id)
            if span is None:
                return
            self._copy_plain(span, "inputs", {"query": query})

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """End a retriever."""
        with self._guard:
            self._recorder.end(run_id.int, lambda span: self._copy_plain(span, "outputs", documents))

    # Failures: the same for every kind of run.

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Fail a run; also called for cancellations, abandoned streams and LangGraph's interrupts."""
        with self._guard:
            failed = failure(error, with_text=self._captures_content)

            def finish(span: SpanRecord) -> None:
                self._set_streamed_inputs(span, kwargs.get("inputs"))
                has_answer = self._models.fail(span, kwargs.get("response"))
                if not has_answer and failed.outcome in _EXITS and error.args:
                    self._copy(span, "outputs", inputs_outputs.exit_reason, error.args[0])

            self._recorder.fail(run_id.int, failed, finish)

    on_llm_error = on_tool_error = on_retriever_error = on_chain_error

    # Events.

    def on_retry(self, retry_state: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Record that LangChain tries a run again."""
        with self._guard:
            self._recorder.event(run_id.int, "retry", {"attempt": retry_state.attempt_number})

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Record an event that the application sent with `dispatch_custom_event`."""
        with self._guard:
            copy = MessageFreezer()
            copied = copy(data) if self._captures_content and data is not None else None
            self._recorder.event(run_id.int, name, {} if copied is None else {"data": copied}, copy.size)

    def on_interrupt(self, event: Any) -> None:
        """Record that a graph waits for a person."""
        with self._guard:
            run = self._recorder.find(event.run_id.int)
            if run is not None:
                copy = MessageFreezer() if self._captures_content else None
                langgraph.interrupted(
                    *run, event.checkpoint_id, langgraph_values.interrupts(event.interrupts, copy)
                )

    def on_resume(self, event: Any) -> None:
        """Record that a graph resumes from where it waited."""
        with self._guard:
            run = self._recorder.find(event.run_id.int)
            if run is not None:
                langgraph.resumed(*run, event.checkpoint_id)

    # What the hooks share.

    def _become_graph_handler(self) -> None:
        """Become a handler to which LangGraph reports: it checks the class once a graph has started."""
        self.__class__ = langgraph.graph_handler(type(self))
        self._is_graph_handler = True

    def _start(  # noqa: PLR0917 - the arguments of every hook
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        name: str,
        span_type: str,
        tags: Sequence[str] | None,
        metadata: Mapping[str, object] | None,
    ) -> SpanRecord | None:
        """Open a span, and with a root its trace; None where nothing is recorded."""
        # A run is known by its id's number: the hash of a UUID is computed in Python, every time.
        parent = None if parent_run_id is None else parent_run_id.int
        fallbacks = self._fallbacks
        if fallbacks.are_used or name == FALLBACKS:
            parent = fallbacks.parent(parent)
        started = self._recorder.start(run_id.int, parent, name, span_type, run_id)
        if started is None:
            self._skip(run_id, span_type)
            return None
        span, trace = started
        if trace is not None:
            self._trace_begun(trace, tags or (), metadata or {})
        if self._bridge is not None:
            self._bridge.started(run_id, span, trace)
        if tags:
            run_info.add_tags(span, tags)
        if metadata:
            self._link_prompts(span, metadata)
        if fallbacks.are_used:
            fallbacks.number(span, parent)
        return span

    def _skip(self, run_id: UUID, span_type: str) -> None:
        """Report a run that is not recorded to the bridge."""
        if self._bridge is not None:
            self._bridge.dropped(run_id, span_type)

    def _link_prompts(self, span: SpanRecord, metadata: Mapping[str, object]) -> None:
        if prompts.KEY in metadata:
            prompts.link_to_run(span, metadata[prompts.KEY], self._log)

    def _start_embedding(self, run_id: UUID, parent_run_ids: Sequence[UUID]) -> SpanRecord | None:
        parents = {parent.int: parent for parent in parent_run_ids}
        innermost = self._recorder.innermost(parents)
        parent = None if innermost is None else parents[innermost]
        return self._start(run_id, parent, "embeddings", "EMBEDDING", None, None)

    def _shown(self, span: SpanRecord, value: Any) -> object:
        """Copy the inputs or outputs of a chain; those of a root or an agent are shown as a conversation."""
        if not self._captures_content:
            return None
        if isinstance(value, str):  # as most are; LangChain's own texts are of a class of its own
            span.size += len(value) + NODE_COST
            return value if type(value) is str else str.__str__(value)
        if type(value) is dict and "messages" not in value:
            copied, size, others = flat(value)
            if copied is not None and not others:
                span.size += size
                return copied
        copy = MessageFreezer(span.memory)
        is_chat = span.parent_id is None or span.span_type == "AGENT"
        shown = inputs_outputs.conversation(value, copy) if is_chat else inputs_outputs.plain(value, copy)
        span.size += copy.size
        return shown

    def _set_streamed_inputs(self, span: SpanRecord, inputs: object) -> None:
        """Set the inputs of a run that got a stream: LangChain reports them when the run ends or fails."""
        if inputs is not None:
            span.is_stream = True
            span.inputs = self._shown(span, inputs)

    def _copy(self, span: SpanRecord, side: str, convert: inputs_outputs.Shape, value: Any) -> None:
        """Copy `value` into the inputs or outputs of `span`, if content is captured."""
        if self._captures_content:
            copy = MessageFreezer(span.memory)
            setattr(span, side, convert(value, copy))
            span.size += copy.size

    def _copy_plain(self, span: SpanRecord, side: str, value: object) -> None:
        self._copy(span, side, inputs_outputs.plain, value)
