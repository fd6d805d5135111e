"""Copies the inputs and outputs of runs in the forms that MLflow shows: conversations, parameters, tools.

Runs on the caller's thread, and returns frozen copies (see `freeze`).
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
    "exit_reason",
    "llm_inputs",
    "offered_tools",
    "parameters",
    "plain",
    "request_attributes",
    "tool_attributes",
    "tool_output",
]

_ROLES_WRITTEN: Final = tuple(ROLES)
"""A tuple, not a set: the role that a message has may be no hashable value."""

# Parameters of a model call that are safe and worth showing. An allow-list: LangChain's invocation parameters
# may also hold headers and addresses. Without `stream`: it shows how the client was made, also when this call
# is a stream (langchain-openai 1.7).
_PARAMETERS: Final = frozenset({
    "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "n", "parallel_tool_calls",
    "presence_penalty", "reasoning", "reasoning_effort", "response_format", "seed", "service_tier", "stop",
    "temperature", "tool_choice", "top_k", "top_logprobs", "top_p", "verbosity",
})  # fmt: skip

Shape: TypeAlias = Callable[..., object]
"""Copies a value, its first argument, with a freezer, its second, in a form that MLflow shows."""


def conversation(value: object, copy: Freezer) -> object:
    """Copy the input or output of a root or an agent; messages become role messages, however written.

    LangChain takes them as objects, `(role, text)` pairs, texts and dicts, one or several, under `messages`
    or by themselves.
    """
    frozen = copy(value)
    if isinstance(value, BaseMessage):
        return {"messages": [frozen]}
    if isinstance(frozen, dict):
        messages = frozen.get("messages")
        return {**frozen, "messages": _role_messages(messages)} if messages else frozen
    if isinstance(frozen, list) and frozen and all(map(_is_message, frozen)):
        return {"messages": _role_messages(frozen)}
    return frozen


def _is_message(value: object) -> bool:
    if isinstance(value, dict):
        return "content" in value and (value.get("role") or value.get("type")) in _ROLES_WRITTEN
    return _is_pair(value)


def _is_pair(value: object) -> bool:
    """Whether it is a role with a text, as LangChain takes a message."""
    match value:
        case [role, _]:
            return role in _ROLES_WRITTEN
        case _:
            return False


def _role_messages(messages: object) -> list[object]:
    if isinstance(messages, list) and not _is_pair(messages):
        return [_role_message(message) for message in messages]
    return [_role_message(messages)]


def _role_message(message: object) -> object:
    if isinstance(message, dict):
        return _with_role(message) if "content" in message else message
    match message:
        case str():
            return {"role": "user", "content": message}
        case [role, str(text)]:
            return {"role": ROLES.get(str(role), "user"), "content": text}
        case _:
            return message


def _with_role(message: dict[str, object]) -> dict[str, object]:
    role = ROLES.get(str(message.get("role") or message.get("type")), "user")
    if role == message.get("role") and "type" not in message:
        return message
    return {**{key: item for key, item in message.items() if key != "type"}, "role": role}


def exit_reason(reason: object, copy: Freezer) -> object:
    """Copy why LangGraph left a node: interrupts, as `invoke` returns them, or the node that comes next."""
    waits_for = interrupts(reason, copy)
    return {"__interrupt__": waits_for} if waits_for else copy(reason)


def plain(value: object, copy: Freezer) -> object:
    """Copy a value as it is; a list of one command, as the nodes of agents return it, as the command."""
    if type(value) is list and len(value) == 1 and is_command(type(value[0])):
        return copy(value[0])
    return copy(value)


def chat_inputs(
    invocation: Mapping[str, object], messages: Sequence[BaseMessage], copy: Freezer
) -> dict[str, object]:
    """Copy the request of a chat model: the messages, and the parameters that are safe to show."""
    return {"messages": copy.items(messages), **parameters(invocation, copy)}


def llm_inputs(invocation: Mapping[str, object], prompts: Sequence[str], copy: Freezer) -> dict[str, object]:
    """Copy the request of a plain LLM."""
    prompt: object = prompts[0] if len(prompts) == 1 else prompts
    return {"prompt": copy(prompt), **parameters(invocation, copy)}


def parameters(invocation: Mapping[str, object], copy: Freezer) -> dict[str, object]:
    """Copy the parameters of a model call that are in the allow-list and set."""
    return {
        key: copy(_schema(value) if isinstance(value, type) else value)
        for key, value in invocation.items()
        if key in _PARAMETERS and value not in (None, [])
    }


@lru_cache(maxsize=TYPES_KNOWN)
def _schema(kind: type) -> object:
    """Return the JSON schema of a class that the answer must match; its name where it has none."""
    describe: Callable[[], object] = getattr(kind, "model_json_schema", lambda: kind.__name__)
    return attempt(describe, lambda _: kind.__name__)


def request_attributes(invocation: Mapping[str, object], metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes of a model call's request; LangChain's `ls_…` metadata name the provider.

    On Azure a request names a deployment, an alias without a price. So it is in no attribute that MLflow
    reads as a model; mlflow 3.17 reads `gen_ai.request.model` as one, too.
    """
    deployment = invocation.get("azure_deployment")
    requested = None if deployment else metadata.get("ls_model_name") or invocation.get("model")
    attributes = {
        LLM_PROVIDER: metadata.get("ls_provider"),
        LLM_MODEL: requested,
        REQUEST_MODEL: requested,
        AZURE_DEPLOYMENT: deployment,
        "gen_ai.request.temperature": invocation.get("temperature"),
        "gen_ai.request.max_tokens": invocation.get("max_completion_tokens") or invocation.get("max_tokens"),
        "gen_ai.request.top_p": invocation.get("top_p"),
    }
    return {key: value for key, value in attributes.items() if isinstance(value, str | int | float)}


def offered_tools(invocation: Mapping[str, object]) -> object:
    """Return the tools that a model may call, in OpenAI's form."""
    return invocation.get("tools") or invocation.get("functions")


def tool_output(output: object, copy: Freezer) -> object:
    """Copy the output of a tool: a message's content, or the value itself."""
    return copy(output.content if isinstance(output, ToolMessage) else output)


def tool_attributes(output: object) -> dict[str, object]:
    """Return what a tool's message has beside its content: the call it answers, a failure, an artifact."""
    if not isinstance(output, ToolMessage):
        return {}
    attributes = {
        TOOL_CALL_ID: output.tool_call_id,
        "lc.tool.status": "error" if output.status == "error" else None,
        "lc.tool.artifact": _summary(output.artifact),
    }
    return {key: value for key, value in attributes.items() if value}


def _summary(artifact: object) -> str | None:
    """Describe an artifact, which may be anything: its type, and how many items of which type it has."""
    kind = type(artifact).__name__
    if isinstance(artifact, list | tuple | set | frozenset):
        kinds = {type(item).__name__ for item in artifact}
        return f"{kind} of {len(artifact)} {kinds.pop() if len(kinds) == 1 else ''}".rstrip()
    if isinstance(artifact, dict | str | bytes):
        return f"{kind} of {len(artifact)}"
    return None if artifact is None else kind
