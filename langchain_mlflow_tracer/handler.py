"""Hears LangChain's callbacks and says them as start, event, end and fail of runs.

Every hook stands behind one guard: nothing that goes wrong here reaches the chain.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from langchain_mlflow_tracer import azure, call, completion, content, embedding, graph, run
from langchain_mlflow_tracer.call import ModelCall
from langchain_mlflow_tracer.failure import failure, refusal
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recorder import Finish, Recorder
from langchain_mlflow_tracer.seen import Seen

__all__ = ["Handler"]

P = ParamSpec("P")


def _guarded(hook: Callable[P, None]) -> Callable[P, None]:
    """Let nothing that `hook` raises reach LangChain; count it and say it once a minute."""

    @functools.wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the law: no exception of ours reaches the chain
            cast("Handler", args[0])._hook_failed(hook.__name__, error)  # noqa: SLF001 - its own class

    return guarded


class Handler(BaseCallbackHandler):
    """Hears of runs and records them; whoever makes one gives it a recorder."""

    # On the thread and in the task that runs the chain: starts come before ends, and contexts are real.
    run_inline = True
    raise_error = False

    _recorder: Recorder
    _notices: Notices
    _captures_content: bool
    _hears_graphs = False

    def _trace_begun(self, trace: TraceRecord, tags: Sequence[str], metadata: Mapping[str, object]) -> None:
        """Say of a new trace what is known of the whole."""

    # Chains, prompts, parsers, graphs and agents.

    @_guarded
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: dict[str, Any] | Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a chain, or a prompt, parser, graph, node or agent."""
        self._hear_graphs()
        name = run.name(serialized, kwargs)
        span_type = run.chain_type(name, kwargs.get("run_type"), tags or [], metadata or {})

        span = self._start(run_id, parent_run_id, name, span_type, tags, metadata)
        if span is None:
            return
        span.attributes.update(run.chain_attributes(kwargs.get("run_type"), tags or ()))
        self._copy_shown(span, "inputs", inputs)

    @_guarded
    def on_chain_end(self, outputs: dict[str, Any] | Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a chain; one that was streamed learns its inputs only now."""

        def finish(span: SpanRecord) -> None:
            self._learn_inputs(span, kwargs)
            self._copy_shown(span, "outputs", outputs)
            graph.add_interrupts(span)

        self._end(run_id, finish)

    # Models.

    @_guarded
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
        invocation = kwargs.get("invocation_params") or {}
        sent = [message for conversation in messages for message in conversation]

        span = self._start(run_id, parent_run_id, run.name(serialized, kwargs), "CHAT_MODEL", tags, metadata)
        if span is None:
            return
        self._begin_model(span, serialized, invocation, metadata or {})
        self._begin_call(run_id, span, kwargs)
        self._mark_fallback(span, parent_run_id, metadata or {})
        self._copy(span, "inputs", functools.partial(content.chat_inputs, invocation), sent)

    @_guarded
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
        invocation = kwargs.get("invocation_params") or {}

        span = self._start(run_id, parent_run_id, run.name(serialized, kwargs), "LLM", tags, metadata)
        if span is None:
            return
        self._begin_model(span, serialized, invocation, metadata or {})
        self._begin_call(run_id, span, kwargs)
        self._copy(span, "inputs", functools.partial(content.llm_inputs, invocation), prompts)

    @_guarded
    def on_llm_new_token(
        self, token: str | list[str | dict[str, Any]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Count a chunk of a stream; it is no event of its own."""
        found = self._recorder.find(run_id.int)
        if found is not None and isinstance(gathered := found[0].gathered, ModelCall):
            gathered.add(token)

    @_guarded
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """End a model call of either kind."""

        def finish(span: SpanRecord) -> None:
            answer = content.Answer.of(response)
            told = azure.of_answer(answer.facts, answer.infos, is_azure=_is_azure(span))
            span.attributes.update(told)
            self._copy(span, "outputs", content.Answer.outputs, answer)
            if isinstance(span.gathered, ModelCall):
                span.gathered.tell(span)
                if span.gathered.lacks_usage and answer.usage.tokens is None:
                    self._notices.warn("stream_without_usage", _NO_USAGE)
                span.gathered.forget()
            span.attributes.update(answer.attributes(*_asked_and_served(span)))

        self._end(run_id, finish)

    # Tools and retrievers.

    @_guarded
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
        span = self._start(run_id, parent_run_id, run.name(serialized, kwargs), "TOOL", tags, metadata)
        if span is None:
            return
        if kwargs.get("tool_call_id"):
            span.attributes["gen_ai.tool.call.id"] = str(kwargs["tool_call_id"])
        self._copy(span, "inputs", content.plain, input_str if inputs is None else inputs)

    @_guarded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool."""

        def finish(span: SpanRecord) -> None:
            span.attributes.update(content.tool_attributes(output))
            self._copy(span, "outputs", content.tool_output, output)

        self._end(run_id, finish)

    @_guarded
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
        span = self._start(run_id, parent_run_id, run.name(serialized, kwargs), "RETRIEVER", tags, metadata)
        embedding.begin_retriever(self, run_id)
        if span is None:
            return
        self._copy(span, "inputs", content.plain, {"query": query})

    @_guarded
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """End a retriever."""
        self._end(run_id, lambda span: self._copy(span, "outputs", content.plain, documents))

    # Embeddings, of which LangChain tells nothing: these are called from the wire (see `embedding`).

    @_guarded
    def on_embedding_start(
        self,
        asked: embedding.Asked,
        *,
        run_id: UUID,
        parent_run_ids: Sequence[UUID],
        retry: dict[str, object] | None = None,
    ) -> None:
        """Start a call of an embedding model below the innermost of the runs it is in, or go on with it."""
        if retry is None or not self._recorder.resume(run_id.int):
            inside = {parent.int: parent for parent in parent_run_ids}
            innermost = self._recorder.innermost(inside)
            parent = None if innermost is None else inside[innermost]
            span = self._start(run_id, parent, "embeddings", "EMBEDDING", None, None)
            if span is not None:
                span.attributes.update(asked.attributes)
                self._copy(span, "inputs", content.plain, asked.inputs)
        if retry is not None:
            self._recorder.event(run_id.int, "retry", dict(retry))

    @_guarded
    def on_embedding_end(self, answered: embedding.Answered, seen: Seen, *, run_id: UUID) -> None:
        """End a call of an embedding model."""

        def finish(span: SpanRecord) -> None:
            span.attributes.update(seen.attributes | answered.attributes)
            self._copy(span, "outputs", content.plain, answered.outputs)

        self._end(run_id, finish)

    @_guarded
    def on_embedding_error(self, error: BaseException | None, seen: Seen, *, run_id: UUID) -> None:
        """Fail a call of an embedding model: by an exception, or by an answer that is an error."""
        told = refusal(seen.attributes) if error is None else failure(error, with_text=self._captures_content)
        self._recorder.fail(run_id.int, told, lambda span: span.attributes.update(seen.attributes))

    def is_open(self, run_id: UUID) -> bool:
        """Whether a run has not ended."""
        return self._recorder.is_open(run_id.int)

    # Failures: the same for every kind of run.

    @_guarded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Fail a run; also cancellations, abandoned streams and LangGraph's interrupts come this way."""
        told = failure(error, with_text=self._captures_content)
        partial = kwargs.get("response")

        def finish(span: SpanRecord) -> None:
            self._learn_inputs(span, kwargs)
            if isinstance(span.gathered, ModelCall):
                self._fail_model(span, span.gathered, error)
            if isinstance(partial, LLMResult) and content.says_something(partial):
                self._copy(span, "outputs", content.Answer.outputs, content.Answer.of(partial))
            elif told.outcome in {Outcome.INTERRUPTED, Outcome.COMPLETED} and error.args:
                self._copy(span, "outputs", content.left_with, error.args[0])

        self._recorder.fail(run_id.int, told, finish)

    on_llm_error = on_tool_error = on_retriever_error = on_chain_error

    # What happens in between.

    @_guarded
    def on_retry(self, retry_state: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Note that LangChain tries a run again."""
        self._recorder.event(run_id.int, "retry", {"attempt": retry_state.attempt_number})

    @_guarded
    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Record what the application dispatched with `dispatch_custom_event`."""
        copy = content.freezer()
        copied = copy(data) if self._captures_content and data is not None else None
        self._recorder.event(run_id.int, name, {} if copied is None else {"data": copied}, copy.size)

    @_guarded
    def on_interrupt(self, event: Any) -> None:
        """Note that a graph waits for a person; its run ends, but not its work."""
        found = self._recorder.find(event.run_id.int)
        if found is not None:
            copy = content.freezer() if self._captures_content else None
            graph.interrupted(*found, event.checkpoint_id, graph.interrupts(event.interrupts, copy))

    @_guarded
    def on_resume(self, event: Any) -> None:
        """Note that a graph goes on from where it waited."""
        found = self._recorder.find(event.run_id.int)
        if found is not None:
            graph.resumed(*found, event.checkpoint_id)

    # What the hooks share.

    def _hear_graphs(self) -> None:
        """Become what LangGraph talks to, once it is there: it looks right after a graph has started."""
        if not self._hears_graphs and "langgraph.callbacks" in sys.modules:
            self.__class__ = graph.hearing(type(self))
            self._hears_graphs = True

    def _hook_failed(self, hook: str, error: Exception) -> None:
        # Not the exception's own text, which may hold what the run was given.
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        self._notices.warn(
            "hook_failed", "%s could not record a run: %s at %s:%s",
            hook, type(error).__name__, frame.f_code.co_filename, line,
        )  # fmt: skip

    def _start(  # noqa: PLR0917 - what every hook is given
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        name: str,
        span_type: str,
        tags: Sequence[str] | None,
        metadata: Mapping[str, object] | None,
    ) -> SpanRecord | None:
        """Open a span, and say of a new trace what is known of the whole; None where nothing is recorded."""
        # A run is known by its id's number: the hash of a UUID is computed in Python, every time.
        parent = self._parent(parent_run_id)
        started = self._recorder.start(run_id.int, parent, name, span_type, run_id)
        if started is None:
            return None
        span, trace = started
        if trace is not None:
            self._trace_begun(trace, tags or (), metadata or {})
        if tags and (attempt := run.attempt_number(tags)) is not None:
            span.attributes["lc.retry.attempt"] = attempt
        if parent is not None and (number := run.fallback_number(*self._recorder.failed_below(parent))):
            span.attributes["lc.fallback"] = number
        return span

    def _parent(self, told: UUID | None) -> int | None:
        """Return the run that a run is told to be below, or the one that LangChain forgets to tell."""
        parent = None if told is None else told.int
        named = run.named_parent()
        if named is not None and named.int != parent:
            forgotten = self._recorder.find(named.int)
            found = None if parent is None else self._recorder.find(parent)
            if forgotten is not None and run.forgets_parent(forgotten[0], found and found[0]):
                return named.int
        return parent

    def _begin_model(
        self,
        span: SpanRecord,
        serialized: Mapping[str, object] | None,
        invocation: Mapping[str, object],
        metadata: Mapping[str, object],
    ) -> None:
        span.attributes.update(content.request_attributes(invocation, metadata))
        span.attributes.update(azure.of_client(serialized))
        if self._captures_content:
            copy = content.freezer()
            if (tools := content.tool_definitions(invocation, copy)) is not None:
                span.attributes["mlflow.chat.tools"] = tools
                span.size += copy.size

    def _begin_call(self, run_id: UUID, span: SpanRecord, told: Mapping[str, Any]) -> None:
        span.gathered = begun = ModelCall(run_id.int, self._recorder, keeps_text=self._captures_content)
        # Of several prompts in one call of `generate`, nobody can tell whose request is sent.
        if told.get("batch_size", 1) == 1:
            call.begin(begun)

    def _mark_fallback(
        self, span: SpanRecord, parent_run_id: UUID | None, metadata: Mapping[str, object]
    ) -> None:
        if parent_run_id is not None:
            parent, failed = self._recorder.failed_below(parent_run_id.int)
            number = run.model_fallback_number(parent, failed, run.requested_model(span), metadata)
            if number is not None:
                span.attributes["lc.fallback"] = number

    def _fail_model(self, span: SpanRecord, begun: ModelCall, error: BaseException) -> None:
        """Say why a call failed; and what had been answered, where LangChain throws it away."""
        is_azure = _is_azure(span)
        told = azure.of_exception(error, with_text=self._captures_content, is_azure=is_azure)
        span.attributes.update(told)
        if begun.seen is not None and begun.seen.answer is not None:
            answer = completion.answer(begun.seen.answer)
            span.attributes.update(answer.attributes(*_asked_and_served(span)))
            self._copy(span, "outputs", content.Answer.outputs, answer)

    def _copy_shown(self, span: SpanRecord, side: str, value: Any) -> None:
        """Copy what a chain was given or gave; a root and an agent are shown as a conversation."""
        is_shown = span.parent_id is None or span.span_type == "AGENT"
        self._copy(span, side, content.conversation if is_shown else content.plain, value)

    def _learn_inputs(self, span: SpanRecord, told: Mapping[str, Any]) -> None:
        """A run that was given a stream knows its inputs only when it ends, one way or another."""
        if told.get("inputs") is not None:
            span.is_stream = True
            self._copy_shown(span, "inputs", told["inputs"])

    def _copy(self, span: SpanRecord, side: str, convert: content.Shape, value: Any) -> None:
        """Freeze `value` into the inputs or outputs of `span`, unless content is not to be captured."""
        if self._captures_content:
            copy = content.freezer()
            setattr(span, side, convert(value, copy))
            span.size += copy.size

    def _end(self, run_id: UUID, finish: Finish) -> None:
        self._recorder.end(run_id.int, finish)


_NO_USAGE = "a stream told no tokens, so it has no cost: a model with http_clients() needs stream_usage=True"


def _is_azure(span: SpanRecord) -> bool:
    return span.attributes.get("mlflow.llm.provider") == "azure"


def _asked_and_served(span: SpanRecord) -> tuple[object, object]:
    """The deployment that was asked, and the model that served it, where Azure's headers name it."""
    return span.attributes.get("azure.deployment"), span.attributes.get("azure.served_model")
