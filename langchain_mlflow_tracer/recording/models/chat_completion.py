"""Reads a model's answer: frozen when it comes, and shown as OpenAI's chat completion later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_mlflow_tracer.core.attributes import CHAT_TOKEN_USAGE, LLM_MODEL, RESPONSE_ID, RESPONSE_MODEL
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.models.token_usage import Usage

__all__ = ["Answer", "Told", "says_something", "told"]


class Part(NamedTuple):
    """What LangChain tells of one generation, copied; no message where content is not to be captured."""

    message: object
    info: Mapping[str, object] | None
    metadata: Mapping[str, object] | None
    usage: Mapping[str, object] | None


Told = tuple[Sequence[Part], Mapping[str, object] | None]
"""What LangChain tells of the generations, and of the whole."""


def told(result: LLMResult, copy: Freezer, *, with_content: bool = True) -> Told:
    """Copy what a model answered, to be read later."""
    parts = [_part(one, copy, with_content=with_content) for row in result.generations for one in row]
    whole = result.llm_output
    return parts, copy.mapping(whole) if whole else None


def _part(generation: Generation, copy: Freezer, *, with_content: bool) -> Part:
    info = generation.generation_info
    if info:
        info = copy.mapping(info)
    if not isinstance(generation, ChatGeneration):
        shown = {"role": "assistant", "content": copy(generation.text)} if with_content else None
        return Part(shown, info, None, None)
    message = generation.message
    facts, usage = message.response_metadata, getattr(message, "usage_metadata", None)
    return Part(
        copy(message) if with_content else None,
        info,
        copy.mapping(facts) if facts else None,
        copy.mapping(usage) if usage else None,
    )


@dataclass(slots=True)
class Answer:
    """A model's answer, frozen: its messages, what is known of each, and what the provider said of the whole.

    The messages are None where content is not to be captured.
    """

    messages: Sequence[object] | None
    infos: Sequence[Mapping[str, object]]
    facts: Mapping[str, object]
    usage: Usage

    @classmethod
    def of(cls, told: Told) -> Answer:
        """Read what was copied; what a provider says stands in one of three places."""
        parts, whole = told
        infos = [{**(info or {}), **(metadata or {})} for _, info, metadata, _ in parts]
        facts = dict(infos[0]) if infos else {}
        facts.update({key: item for key, item in (whole or {}).items() if item is not None})
        usage = next((part.usage for part in parts if part.usage), None)
        messages = None if any(part.message is None for part in parts) else [part.message for part in parts]
        return cls(messages, infos, facts, Usage.of(usage, (whole or {}).get("token_usage")))

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
        return {key: value for key, value in shown.items() if value is not None}

    def attributes(self, deployment: object = None, served: object = None) -> dict[str, object]:
        """Return what a person searches model calls by, under OpenTelemetry's names (gen_ai semconv 1.38).

        A `deployment` is what was asked for on Azure. Where it is all that the answer names, only `served`,
        from the headers, can tell which model it was.
        """
        facts, usage = self.facts, self.usage
        reasons = [str(reason) for info in self.infos if (reason := _finish_reason(info))]
        named, tier = facts.get("model_name") or facts.get("model"), facts.get("service_tier")
        model = served if served and named == deployment else named
        found = {
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
        return {key: value for key, value in found.items() if value is not None}


def says_something(result: LLMResult) -> bool:
    """Whether an answer that broke off had come to a text or a tool call."""
    messages = (one.message if isinstance(one, ChatGeneration) else one for one in _generations(result))
    return any(
        one.text or (isinstance(one, AIMessage) and (one.tool_calls or one.invalid_tool_calls))
        for one in messages
    )


def _generations(result: LLMResult) -> list[Generation]:
    return [one for row in result.generations for one in row]


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
