"""Reads a chat completion as the API gives it, where LangChain throws it away."""

from __future__ import annotations

from collections.abc import Mapping

from langchain_core.messages import AIMessage
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    Generation,
    GenerationChunk,
    LLMResult,
)

from langchain_mlflow_tracer.recording.content.messages import MessageFreezer
from langchain_mlflow_tracer.recording.models.chat_completion import Answer
from langchain_mlflow_tracer.recording.models.chat_completion import told as told_by

__all__ = ["answer"]

AnyGeneration = Generation | ChatGeneration | GenerationChunk | ChatGenerationChunk
"""What LangChain's result may consist of."""


def answer(told: Mapping[str, object], *, with_content: bool) -> Answer:
    """Return a completion as the answer that LangChain would have made of it: its texts, reasons, usage."""
    choices = told.get("choices")
    generations: list[AnyGeneration] = (
        [_generation(choice) for choice in choices] if isinstance(choices, list) else []
    )
    facts = {
        "id": told.get("id"),
        "model_name": told.get("model"),
        "system_fingerprint": told.get("system_fingerprint"),
        "service_tier": told.get("service_tier"),
        "prompt_filter_results": told.get("prompt_filter_results"),
        "token_usage": told.get("usage"),
    }
    result = LLMResult(generations=[generations], llm_output=facts)
    return Answer.of(told_by(result, MessageFreezer(), with_content=with_content))


def _generation(choice: Mapping[str, object]) -> ChatGeneration:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    info = {key: choice.get(key) for key in ("finish_reason", "content_filter_results")}
    return ChatGeneration(
        message=AIMessage(content=text if isinstance(text, str) else ""), generation_info=info
    )
