"""Copies LangChain's messages as the role messages that MLflow shows, and documents, commands and prompts.

Runs on the caller's thread, and returns frozen copies (see `freeze`). The shapes are those that MLflow's UI
renders as a chat (seen in mlflow 3.17.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.record import JsonText
from langchain_mlflow_tracer.recording.content.copiers import NODE_COST, TYPES_KNOWN, Copier, copier
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.content.langgraph_values import command, is_command

__all__ = ["ROLES", "MessageFreezer"]

# MLflow renders a conversation as a chat only when every role is one of these four.
ROLES: Final = {
    "human": "user",
    "HumanMessageChunk": "user",
    "user": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "assistant": "assistant",
    "system": "system",
    "SystemMessageChunk": "system",
    "developer": "system",
    "tool": "tool",
    "ToolMessageChunk": "tool",
    "function": "tool",
    "FunctionMessageChunk": "tool",
}

# Of the types of blocks there are tuples: a type may itself be of a type that no set takes.

# Content blocks whose content stands elsewhere in an answer: its text, its reasoning, its tool calls.
_BLOCKS_SHOWN: Final = (
    "text", "text-plain", "output_text", "refusal", "reasoning", "thinking", "tool_call", "tool_call_chunk",
    "invalid_tool_call", "tool_use", "input_json_delta", "function_call", "custom_tool_call", None,
)  # fmt: skip

# Content blocks that may refer to something elsewhere, and the keys under which others hold it themselves.
_REFERRING: Final = ("image", "audio", "video", "file", "document", "input_image", "input_file")
_HOLDING: Final = frozenset({"base64", "data", "file", "file_data", "source", "image_url"})


@lru_cache(maxsize=TYPES_KNOWN)
def _copier(kind: type) -> Copier:
    for base, copy in _COPIERS:
        if issubclass(kind, base):
            return copy
    return command if is_command(kind) else copier(kind)


def _message(message: BaseMessage, copy: Freezer, kind: str | None = None) -> dict[str, object]:
    kind = kind or message.type
    content: object = message.content
    name = message.name
    if type(content) is str:  # as most are; the same as copy(content), without the call
        copy.size += len(content) + NODE_COST
    else:
        content = _blocks(copy(content))
    shown: dict[str, object] = {"role": ROLES.get(kind, "user"), "content": content}
    if name:
        shown["name"] = name
    elif kind not in ROLES:
        shown["name"] = kind
    return shown


def _blocks(content: object) -> object:
    if type(content) is not list:
        return content
    return [_drawable(block) if isinstance(block, dict) else block for block in content]


def _drawable(block: dict[str, object]) -> dict[str, object]:
    """Write a block that refers to something elsewhere in a form that MLflow draws, with all that it had.

    One block of a kind that MLflow does not know, and it draws no chat at all (3.17). Blocks that hold what
    they show are written anew where that becomes an attachment.
    """
    kind = block.get("type")
    if kind == "input_text":
        return {**block, "type": "text"}
    place = block.get("image_url") if kind == "input_image" else block.get("url")
    if not isinstance(place, str) or place.startswith("data:"):
        place = None
    if place is not None and kind in ("image", "input_image"):
        return {**block, "type": "image_url", "image_url": {"url": place}}
    named = place or block.get("file_id") or block.get("id")
    if kind in _REFERRING and isinstance(named, str) and _HOLDING.isdisjoint(block):
        return {**block, "type": "text", "text": f"[{kind}: {named}]"}
    return block


def _plain_message(message: BaseMessage, copy: Freezer) -> dict[str, object]:
    shown = _message(message, copy)
    if type(message.content) is str:
        copy.remember(message, message.__dict__.copy(), shown)
    return shown


def _chat_message(message: ChatMessage, copy: Freezer) -> dict[str, object]:
    return _message(message, copy, message.role)


def _tool_message(message: ToolMessage, copy: Freezer) -> dict[str, object]:
    shown = _message(message, copy)
    shown["tool_call_id"] = message.tool_call_id
    if message.status == "error":
        shown["status"] = "error"
    if type(message.content) is str:
        copy.remember(message, message.__dict__.copy(), shown)
    return shown


def _answer_message(message: AIMessage, copy: Freezer) -> dict[str, object]:
    shown = _message(message, copy)
    more = message.additional_kwargs
    if type(message.content) is str and not (more or message.tool_calls or message.invalid_tool_calls):
        copy.remember(message, {**message.__dict__, **_NOTHING_MORE}, shown)
        return shown
    _complete_answer(shown, message, copy)
    if type(message.content) is str and not (message.invalid_tool_calls or any(map(_is_told, more.values()))):
        _remember_calls(message, copy, shown)
    return shown


def _is_told(value: object) -> bool:
    return value is not None


def _remember_calls(message: AIMessage, copy: Freezer, shown: dict[str, Any]) -> None:
    """Remember a message with tool calls, if their arguments are plain data: others may not be comparable."""
    copies = [one["function"]["arguments"] for one in shown.get("tool_calls", ())]
    calls = [{**call, "args": args} for call, args in zip(message.tool_calls, copies, strict=True)]
    fields = {**message.__dict__, "additional_kwargs": {**message.additional_kwargs}, "tool_calls": calls}
    fields["invalid_tool_calls"] = []
    if attempt(lambda: fields == message.__dict__, lambda _: False):
        copy.remember(message, fields, shown)


def _complete_answer(shown: dict[str, object], message: AIMessage, copy: Freezer) -> None:
    """Add what only a model's message has. Its content is one text, or null beside tool calls."""
    refusal = message.additional_kwargs.get("refusal")
    thoughts = message.additional_kwargs.get("reasoning_content")
    if isinstance(message.content, list):
        shown["content"] = _joined(message.content, "text")
        thoughts = _reasoning(message.content) or thoughts
        if others := [block for block in message.content if _is_shown_nowhere_else(block)]:
            shown["content_blocks"] = copy(others)
        refusal = refusal or _joined(message.content, "refusal")
    calls = [
        _tool_call(call["id"], call["name"], JsonText(copy.mapping(call["args"])))
        for call in message.tool_calls
    ]
    calls += [_tool_call(call["id"], call["name"], call["args"]) for call in message.invalid_tool_calls]
    if calls:
        shown["tool_calls"] = calls
        shown["content"] = shown["content"] or None
    if thoughts:
        shown["reasoning"] = copy(thoughts)
    if spoken := message.additional_kwargs.get("audio"):
        shown["audio"] = copy(spoken)
    if refusal and not shown["content"]:
        shown["content"] = copy(refusal)
        shown["refusal"] = shown["content"]


def _joined(blocks: Sequence[object], key: str) -> str:
    """The texts of content blocks of one kind, one after the other."""
    parts = ({"text": block} if isinstance(block, str) else block for block in blocks)
    texts = (part.get(key) for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _reasoning(blocks: Sequence[object]) -> str:
    """Reasoning summaries among content blocks, as the Responses API or LangChain's v1 content has them."""
    thoughts = (thought for block in blocks if isinstance(block, dict) for thought in _thoughts(block))
    return "\n\n".join(thought for thought in thoughts if isinstance(thought, str) and thought)


def _thoughts(block: Mapping[str, object]) -> list[object]:
    if block.get("type") == "thinking":  # Anthropic's
        return [block.get("thinking")]
    if block.get("type") != "reasoning":
        return []
    summary = block.get("summary")
    parts = summary if isinstance(summary, list) else []
    return [*(part.get("text") for part in parts if isinstance(part, dict)), block.get("reasoning")]


def _is_shown_nowhere_else(block: object) -> bool:
    """Whether a content block is neither text nor reasoning nor a tool call: an image, a sound, a search."""
    return isinstance(block, dict) and block.get("type") not in _BLOCKS_SHOWN


def _tool_call(identity: object, name: object, arguments: object) -> dict[str, object]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _document(document: Document, copy: Freezer) -> dict[str, object]:
    shown = {"page_content": copy(document.page_content), "metadata": copy(document.metadata)}
    return shown if document.id is None else {**shown, "id": document.id}


_NOTHING_MORE: Final[dict[str, Any]] = {"additional_kwargs": {}, "tool_calls": [], "invalid_tool_calls": []}
"""What may be put into an answer in place, where there is nothing of it yet."""

_COPIERS: Final[tuple[tuple[type, Copier], ...]] = (
    (AIMessage, _answer_message),
    (ToolMessage, _tool_message),
    (ChatMessage, _chat_message),
    (BaseMessage, _plain_message),
    (Document, _document),
    (ChatPromptValue, lambda value, copy: {"messages": copy.items(value.messages)}),
    (PromptValue, lambda value, copy: copy(value.to_string())),
    # A model or chain among the inputs: its fields hold clients, keys and addresses.
    (Runnable, lambda value, _copy: f"<{type(value).__name__}>"),
)


class MessageFreezer(Freezer):
    """A freezer that knows LangChain's types."""

    copier_of = staticmethod(_copier)
