"""Copies a model's answer when it comes, and later shows it as OpenAI's chat completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_mlflow_tracer.core.attributes import (
    CHAT_TOKEN_USAGE,
    LLM_MODEL,
    RESPONSE_ID,
    RESPONSE_MODEL,
    present,
)
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.models.content_filters import mappings
from langchain_mlflow_tracer.recording.models.token_usage import Usage

__all__ = ["Answer", "CapturedAnswer", "capture_answer", "has_content", "read_completion"]


class Part(NamedTuple):
    """A copy of one generation; `message` is None where content is not captured."""

    message: object
    info: Mapping[str, object]
    usage: Mapping[str, object] | None


class CapturedAnswer(NamedTuple):
    """A copy of what LangChain gives: each generation, and what the provider reports of the whole."""

    parts: Sequence[Part]
    whole: Mapping[str, object]


def capture_answer(result: LLMResult, copy: Freezer, *, with_content: bool = True) -> CapturedAnswer:
    """Copy a model's answer, so that it can be read later."""
    parts = [_part(generation, copy, with_content=with_content) for generation in _generations(result)]
    return CapturedAnswer(parts, copy.mapping(result.llm_output or {}))


def _part(generation: Generation, copy: Freezer, *, with_content: bool) -> Part:
    info = generation.generation_info or {}
    if not isinstance(generation, ChatGeneration):
        shown = {"role": "assistant", "content": copy(generation.text)} if with_content else None
        return Part(shown, copy.mapping(info), None)
    message = generation.message
    shown_message = copy(message) if with_content else None
    usage = getattr(message, "usage_metadata", None)
    # One mapping of both, so that the caller's thread copies once.
    info = copy.mapping({**info, **message.response_metadata})
    return Part(shown_message, info, copy.mapping(usage) if usage else None)


def read_completion(completion: Mapping[str, object], *, with_content: bool) -> Answer:
    """Read the API's own completion as LangChain would have: for an answer that langchain-openai drops."""
    copy = Freezer()
    named = {"choices": None, "model_name": completion.get("model"), "token_usage": completion.get("usage")}
    choices = mappings(completion.get("choices"))
    parts = [_choice_part(choice, copy, with_content=with_content) for choice in choices]
    return Answer.of(CapturedAnswer(parts, copy.mapping({**completion, **named})))


def _choice_part(choice: Mapping[str, object], copy: Freezer, *, with_content: bool) -> Part:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    shown = {"role": "assistant", "content": text if isinstance(text, str) else ""} if with_content else None
    return Part(shown, copy.mapping({**choice, "message": None}), None)


@dataclass(slots=True)
class Answer:
    """A model's answer: its messages, the facts of each, and the facts of the whole.

    `messages` is None where content is not captured.
    """

    messages: Sequence[object] | None
    infos: Sequence[Mapping[str, object]]
    facts: Mapping[str, object]
    usage: Usage

    @classmethod
    def of(cls, captured: CapturedAnswer) -> Answer:
        """Read what was copied; providers report the whole beside it, or on the first generation."""
        # Without None: a value that is not set for the whole must not hide the one of the first generation.
        parts, whole = captured
        infos = [part.info for part in parts]
        facts = present(whole)
        usage = next((part.usage for part in parts if part.usage), None)
        return cls(
            _messages(parts),
            infos,
            {**infos[0], **facts} if infos else facts,
            Usage.of(usage, whole.get("token_usage")),
        )

    def outputs(self) -> dict[str, object] | None:
        """Return it as OpenAI's chat completion, which MLflow renders as the end of a chat."""
        if self.messages is None:
            return None
        facts = self.facts
        shown = {
            "id": facts.get("id"),
            "model": facts.get("model_name") or facts.get("model"),
            "choices": [
                _choice(index, message, info)
                for index, (message, info) in enumerate(zip(self.messages, self.infos, strict=True))
            ],
            "prompt_filter_results": facts.get("prompt_filter_results"),
            "usage": _reported(facts.get("token_usage")),
        }
        return present(shown)

    def attributes(self, deployment: object = None, served: object = None) -> dict[str, object]:
        """Return the attributes by which model calls are searched, with OpenTelemetry's names (gen_ai 1.38).

        On Azure a request names a `deployment`. If the answer names nothing else, only `served`, the model in
        the headers, shows which model it was.
        """
        facts, usage = self.facts, self.usage
        reasons = [str(reason) for info in self.infos if (reason := _finish_reason(info))]
        named, tier = facts.get("model_name") or facts.get("model"), facts.get("service_tier")
        model = served if served and named == deployment else named
        attributes = {
            **usage.details,
            LLM_MODEL: usage.priced_model(model, tier, deployment),
            CHAT_TOKEN_USAGE: usage.tokens,
            "lc.from_cache": usage.is_from_cache or None,
            RESPONSE_ID: facts.get("id"),
            RESPONSE_MODEL: facts.get("model_name"),
            "gen_ai.response.finish_reasons": reasons or None,
            "gen_ai.openai.response.system_fingerprint": facts.get("system_fingerprint"),
            "gen_ai.openai.response.service_tier": tier,
        }
        return present(attributes)


def _messages(parts: Sequence[Part]) -> list[object] | None:
    messages = [part.message for part in parts]
    return None if None in messages else messages


def has_content(result: LLMResult) -> bool:
    """Whether an answer that broke off has at least a text or a tool call."""
    return any(_has_content(generation) for generation in _generations(result))


def _has_content(generation: Generation) -> bool:
    message = generation.message if isinstance(generation, ChatGeneration) else generation
    # A call whose arguments broke off is an invalid one.
    calls = isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)
    return bool(message.text or calls)


def _generations(result: LLMResult) -> list[Generation]:
    return [generation for row in result.generations for generation in row]


def _reported(usage: object) -> object:
    """The figures of a usage: what a provider does not report, its client fills with nothing."""
    if not isinstance(usage, dict):
        return usage
    return {key: _reported(item) for key, item in usage.items() if item is not None}


def _finish_reason(info: Mapping[str, object]) -> object:
    """Why an answer ended, in the words of chat completions, of Anthropic or of the Responses API."""
    incomplete = info.get("incomplete_details")
    broken_off = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    return info.get("finish_reason") or info.get("stop_reason") or broken_off or info.get("status")


def _choice(index: int, message: object, info: Mapping[str, object]) -> dict[str, object]:
    choice: dict[str, object] = {"index": index, "message": message}
    if (reason := _finish_reason(info)) is not None:
        choice["finish_reason"] = reason
    for key in ("logprobs", "content_filter_results"):
        if info.get(key) is not None:
            choice[key] = info[key]
    return choice
