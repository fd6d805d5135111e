"""Fills the span of a model call: with the request, the stream, the answer or the failure."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.outputs import LLMResult

from langchain_mlflow_tracer.core.attributes import (
    AZURE_DEPLOYMENT,
    AZURE_SERVED_MODEL,
    CHAT_TOOLS,
    LLM_PROVIDER,
)
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord
from langchain_mlflow_tracer.recording.content import inputs_outputs
from langchain_mlflow_tracer.recording.content.messages import MessageFreezer
from langchain_mlflow_tracer.recording.models import azure, chat_completion, model_call
from langchain_mlflow_tracer.recording.models.chat_completion import Answer, CapturedAnswer
from langchain_mlflow_tracer.recording.models.model_call import ModelCall

__all__ = ["ModelSpans"]

_OBSERVER: Final = "langchain_mlflow_tracer.wire.client"
"""The one module that asks which call a request belongs to: before its import nothing needs to know."""

_NO_USAGE: Final = (
    "no token usage in a streamed answer, so no cost: pass stream_usage=True beside http_clients()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpans:
    """The model calls of one tracer. Its functions are the recorder's, by run id."""

    is_open: Callable[[int], bool]
    now: Callable[[int], int | None]
    add_event: Callable[[int, str, dict[str, object]], None]
    log: Log
    with_content: bool

    def start(
        self,
        run_id: int,
        span: SpanRecord,
        serialized: Mapping[str, object] | None,
        metadata: Mapping[str, object] | None,
        options: Mapping[str, Any],
    ) -> Mapping[str, object]:
        """Add the request to a span, from the keywords of LangChain's hook; return the call's parameters."""
        invocation = dict(options.get("invocation_params") or {})
        # In a copy of the parameters only texts and numbers are read later, which nobody can change.
        span.deferred += (functools.partial(_add_request, invocation, metadata or {}, serialized),)
        if self.with_content and (tools := inputs_outputs.offered_tools(invocation)):
            copy = MessageFreezer(span.memory)
            span.attributes[CHAT_TOOLS] = copy(tools)
            span.size += copy.size
        # With several prompts in one call of `generate`, a request cannot be matched to one of them.
        if _OBSERVER in sys.modules and options.get("batch_size", 1) == 1:
            model_call.begin(self.call(run_id, span))
        return invocation

    def call(self, run_id: int, span: SpanRecord) -> ModelCall:
        """Return a new model call, which gathers what is known of it until it ends."""
        span.gathered = call = ModelCall(
            run_id, self.is_open, self.now, self.add_event, self.log, keeps_text=self.with_content
        )
        return call

    def end(self, span: SpanRecord, response: LLMResult) -> None:
        """Copy the answer; it is read later, where that costs the caller nothing."""
        captured = self._captured(span, response)
        call = span.gathered if isinstance(span.gathered, ModelCall) else None
        if call is not None:
            call.forget()
        span.deferred += (functools.partial(self._add_answer, captured, call),)

    def fail(self, span: SpanRecord, partial: object) -> bool:
        """Add the answer of a failed call, as far as it came; return whether `partial` was one."""
        if isinstance(span.gathered, ModelCall):
            self._add_blocked(span, span.gathered)
        if isinstance(partial, LLMResult) and chat_completion.has_content(partial):
            span.outputs = Answer.of(self._captured(span, partial)).outputs()
            return True
        return False

    def _captured(self, span: SpanRecord, response: LLMResult) -> CapturedAnswer:
        copy = MessageFreezer(span.memory)
        captured = chat_completion.capture_answer(response, copy, with_content=self.with_content)
        span.size += copy.size
        return captured

    def _add_answer(self, captured: CapturedAnswer, call: ModelCall | None, span: SpanRecord) -> None:
        answer = Answer.of(captured)
        is_azure = span.attributes.get(LLM_PROVIDER) == "azure"
        span.attributes |= azure.of_answer(answer.facts, answer.infos, is_azure=is_azure)
        span.outputs = answer.outputs()
        if call is not None:
            call.add_to(span)
            if call.lacks_usage and answer.usage.tokens is None:
                self.log.report("stream_without_usage", _NO_USAGE)
        # Last: the model that served a deployment may be known from the HTTP headers only.
        span.attributes |= answer.attributes(*_requested_and_served(span))

    def _add_blocked(self, span: SpanRecord, call: ModelCall) -> None:
        """Add an answer that a content filter blocked: LangChain raises, and drops it."""
        if call.attempts is not None and call.attempts.blocked_answer is not None:
            span.run_deferred()
            blocked = call.attempts.blocked_answer
            answer = chat_completion.read_completion(blocked, with_content=self.with_content)
            span.attributes.update(answer.attributes(*_requested_and_served(span)))
            span.outputs = answer.outputs()


def _add_request(
    invocation: Mapping[str, object],
    metadata: Mapping[str, object],
    serialized: Mapping[str, object] | None,
    span: SpanRecord,
) -> None:
    span.attributes |= inputs_outputs.request_attributes(invocation, metadata) | azure.of_client(serialized)


def _requested_and_served(span: SpanRecord) -> tuple[object, object]:
    """Return the requested deployment, and the model that served it, where Azure's headers name it."""
    return span.attributes.get(AZURE_DEPLOYMENT), span.attributes.get(AZURE_SERVED_MODEL)
