"""Turns what runs are given and give into what MLflow shows: conversations, parameters, documents, tools.

Everything here runs on the caller's thread and returns frozen copies (see `freeze`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from langchain_core.messages import BaseMessage, ToolMessage

from langchain_mlflow_tracer.core.attributes import (
    AZURE_DEPLOYMENT,
    LLM_MODEL,
    LLM_PROVIDER,
    REQUEST_MODEL,
    TOOL_CALL_ID,
)
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.recording.content.copiers import TYPES_KNOWN
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.content.langgraph_values import interrupts, is_command
from langchain_mlflow_tracer.recording.content.messages import ROLES

__all__ = [
    "Shape",
    "chat_inputs",
    "conversation",
    "left_with",
    "llm_inputs",
    "offered_tools",
    "parameters",
    "plain",
    "request_attributes",
    "tool_attributes",
    "tool_output",
]

_ROLES_WRITTEN: Final = tuple(ROLES)
"""A tuple: what is looked for may be of a type that no dict takes for a key."""

# Parameters of a model call that are safe and worth showing. An allow-list: what is beside them in
# LangChain's invocation parameters may be a header or an address. Not `stream`: it says what the client was
# made with, also when a stream is asked for (langchain-openai 1.7).
_PARAMETERS: Final = frozenset({
    "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "n", "parallel_tool_calls",
    "presence_penalty", "reasoning", "reasoning_effort", "response_format", "seed", "service_tier", "stop",
    "temperature", "tool_choice", "top_k", "top_logprobs", "top_p", "verbosity",
})  # fmt: skip

Shape: TypeAlias = Callable[..., object]
"""Copies a value in the form MLflow shows, given the value and a freezer."""


def conversation(value: object, copy: Freezer) -> object:
    """Copy what a root or an agent was given, or gave; messages become role messages, however written.

    LangChain takes them as objects, `(role, text)` pairs, texts and dicts, one or several, under `messages`
    or by themselves.
    """
    frozen = copy(value)
    if isinstance(value, BaseMessage):
        return {"messages": [frozen]}
    if isinstance(frozen, dict):
        given = frozen.get("messages")
        return {**frozen, "messages": _role_messages(given)} if given else frozen
    if isinstance(frozen, list) and frozen and all(_is_message(one) for one in frozen):
        return {"messages": _role_messages(frozen)}
    return frozen


def _is_message(value: object) -> bool:
    if isinstance(value, dict):
        return "content" in value and (value.get("role") or value.get("type")) in _ROLES_WRITTEN
    return _is_pair(value)


def _is_pair(value: object) -> bool:
    """Whether it is a role with a text, as LangChain takes a message."""
    return isinstance(value, list) and len(value) == 2 and value[0] in _ROLES_WRITTEN  # noqa: PLR2004 - a pair


def _role_messages(given: object) -> object:
    if isinstance(given, list) and not _is_pair(given):
        return [_role_message(message) for message in given]
    return [_role_message(given)]


def _role_message(message: object) -> object:
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if isinstance(message, list) and len(message) == 2 and isinstance(message[1], str):  # noqa: PLR2004 - a pair
        return {"role": ROLES.get(str(message[0]), "user"), "content": message[1]}
    if isinstance(message, dict) and "content" in message:
        kind = str(message.get("role") or message.get("type") or "user")
        role = ROLES.get(kind, "user")
        if role == message.get("role") and "type" not in message:
            return message
        return {**{key: item for key, item in message.items() if key != "type"}, "role": role}
    return message


def left_with(reason: object, copy: Freezer) -> object:
    """Copy why LangGraph left a node: what it waits for, as `invoke` returns it, or where it goes on."""
    asked = interrupts(reason, copy)
    return {"__interrupt__": asked} if asked else copy(reason)


def plain(value: object, copy: Freezer) -> object:
    """Copy a value as it is; of a list that is one command, as agents' nodes return it, the command."""
    if type(value) is list and len(value) == 1 and is_command(type(value[0])):
        return copy(value[0])
    return copy(value)


def chat_inputs(
    invocation: Mapping[str, object], messages: Sequence[BaseMessage], copy: Freezer
) -> dict[str, object]:
    """Copy what a chat model was sent: the messages, and the parameters that are safe to show."""
    return {"messages": copy.items(messages), **parameters(invocation, copy)}


def llm_inputs(invocation: Mapping[str, object], prompts: Sequence[str], copy: Freezer) -> dict[str, object]:
    """Copy what a plain LLM was sent."""
    prompt: object = prompts[0] if len(prompts) == 1 else prompts
    return {"prompt": copy(prompt), **parameters(invocation, copy)}


def parameters(invocation: Mapping[str, object], copy: Freezer) -> dict[str, object]:
    """Pick the parameters of a model call by an allow-list; what is not set is left out."""
    return {
        key: copy(_schema(value) if isinstance(value, type) else value)
        for key, value in invocation.items()
        if key in _PARAMETERS and value not in (None, [])
    }


@lru_cache(maxsize=TYPES_KNOWN)
def _schema(kind: type) -> object:
    """The JSON schema of a class that an answer shall have the form of; its name where it has none."""
    describe: Callable[[], object] = getattr(kind, "model_json_schema", lambda: kind.__name__)
    return attempt(describe, lambda _: kind.__name__)


def request_attributes(invocation: Mapping[str, object], metadata: Mapping[str, object]) -> dict[str, object]:
    """Return what is known of a model call before its answer; LangChain's `ls_…` metadata name the provider.

    On Azure what was asked for is a deployment, an alias that has no price: no attribute that MLflow takes
    for a model has it (also `gen_ai.request.model` is one, in mlflow 3.17).
    """
    deployment = invocation.get("azure_deployment")
    requested = None if deployment else metadata.get("ls_model_name") or invocation.get("model")
    found = {
        LLM_PROVIDER: metadata.get("ls_provider"),
        LLM_MODEL: requested,
        REQUEST_MODEL: requested,
        AZURE_DEPLOYMENT: deployment,
        "gen_ai.request.temperature": invocation.get("temperature"),
        "gen_ai.request.max_tokens": invocation.get("max_completion_tokens") or invocation.get("max_tokens"),
        "gen_ai.request.top_p": invocation.get("top_p"),
    }
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}


def offered_tools(invocation: Mapping[str, object]) -> object:
    """Return the tools a model was offered, in OpenAI's form."""
    return invocation.get("tools") or invocation.get("functions")


def tool_output(output: object, copy: Freezer) -> object:
    """Copy what a tool returned: a message's content, else the value."""
    return copy(output.content if isinstance(output, ToolMessage) else output)


def tool_attributes(output: object) -> dict[str, object]:
    """Return what a tool said beside its content: whose call it answers, that it failed, what it returned."""
    if not isinstance(output, ToolMessage):
        return {}
    found = {
        TOOL_CALL_ID: output.tool_call_id,
        "lc.tool.status": "error" if output.status == "error" else None,
        "lc.tool.artifact": _summary(output.artifact),
    }
    return {key: value for key, value in found.items() if value}


def _summary(artifact: object) -> str | None:
    """What an artifact is, which may be anything: its type, and how many of what."""
    kind = type(artifact).__name__
    if not isinstance(artifact, list | tuple | set | frozenset | dict | str | bytes):
        return None if artifact is None else kind
    kinds = (
        {type(one).__name__ for one in artifact} if not isinstance(artifact, str | bytes | dict) else set()
    )
    return f"{kind} of {len(artifact)} {kinds.pop() if len(kinds) == 1 else ''}".rstrip()
