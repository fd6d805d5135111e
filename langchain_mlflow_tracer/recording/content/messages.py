"""Copies LangChain's messages as the role messages that MLflow draws as a chat, and documents and prompts.

Runs on the caller's thread, and returns frozen copies (see `freeze`). Checked with the UI of mlflow 3.17.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    InvalidToolCall,
    ToolCall,
    ToolMessage,
)
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.record import JsonText
from langchain_mlflow_tracer.recording.content.copiers import NODE_COST, TYPES_KNOWN, Copier, copier
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.content.langgraph_values import command, is_command

__all__ = ["ROLES", "MessageFreezer"]

# MLflow draws a conversation as a chat only if every role is one of these four.
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

# The types of blocks are in tuples, not in sets: the type that a block has may be no hashable value.

# Content blocks that an answer shows elsewhere: as its text, its reasoning or its tool calls.
_BLOCKS_SHOWN: Final = (
    "text", "text-plain", "output_text", "refusal", "reasoning", "thinking", "tool_call", "tool_call_chunk",
    "invalid_tool_call", "tool_use", "input_json_delta", "function_call", "custom_tool_call", None,
)  # fmt: skip

# Content blocks that may refer to content elsewhere, and the keys of blocks that hold it themselves.
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
    if type(content) is str:  # the usual case: the same as copy(content), without the call
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
    """Rewrite a block that refers to content elsewhere to a type that MLflow draws; it keeps all its keys.

    With one block of a type that it does not know, MLflow draws no chat at all (3.17). Blocks that hold their
    content are rewritten later, where it becomes an attachment.
    """
    kind = block.get("type")
    if kind == "text":  # the usual case
        return block
    if kind == "input_text":
        return {**block, "type": "text"}
    url = _url(block)
    if url is not None and kind in ("image", "input_image"):
        return {**block, "type": "image_url", "image_url": {"url": url}}
    reference = url or block.get("file_id") or block.get("id")
    if kind in _REFERRING and isinstance(reference, str) and _HOLDING.isdisjoint(block):
        return {**block, "type": "text", "text": f"[{kind}: {reference}]"}
    return block


def _url(block: dict[str, object]) -> str | None:
    """Return where a block's content is; None where the block holds it."""
    url = block.get("image_url" if block.get("type") == "input_image" else "url")
    return url if isinstance(url, str) and not url.startswith("data:") else None


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
    if type(message.content) is str and not (message.invalid_tool_calls or any(map(_is_set, more.values()))):
        _remember_calls(message, copy, shown)
    return shown


def _is_set(value: object) -> bool:
    return value is not None


def _remember_calls(message: AIMessage, copy: Freezer, shown: dict[str, Any]) -> None:
    """Remember a message with tool calls, if their arguments are plain data: others may not be comparable."""
    copies = [call["function"]["arguments"] for call in shown.get("tool_calls", ())]
    calls = [{**call, "args": args} for call, args in zip(message.tool_calls, copies, strict=True)]
    fields = {**message.__dict__, "additional_kwargs": {**message.additional_kwargs}, "tool_calls": calls}
    fields["invalid_tool_calls"] = []
    if attempt(lambda: fields == message.__dict__, lambda _: False):
        copy.remember(message, fields, shown)


def _complete_answer(shown: dict[str, object], message: AIMessage, copy: Freezer) -> None:
    """Add what only a model's message has. Its content is one text, or null beside tool calls."""
    extra, content = message.additional_kwargs, message.content
    refusal, reasoning = extra.get("refusal"), extra.get("reasoning_content")
    if isinstance(content, list):
        shown |= _text_and_others(content, copy)
        reasoning = _reasoning(content) or reasoning
        refusal = refusal or _joined(content, "refusal")
    if calls := _tool_calls(message, copy):
        shown["tool_calls"] = calls
        shown["content"] = shown["content"] or None
    if reasoning:
        shown["reasoning"] = copy(reasoning)
    if audio := extra.get("audio"):
        shown["audio"] = copy(audio)
    if refusal and not shown["content"]:
        shown["content"] = shown["refusal"] = copy(refusal)


def _text_and_others(blocks: Sequence[object], copy: Freezer) -> dict[str, object]:
    others = [block for block in blocks if _is_shown_nowhere_else(block)]
    text = _joined(blocks, "text")
    return {"content": text, "content_blocks": copy(others)} if others else {"content": text}


def _tool_calls(message: AIMessage, copy: Freezer) -> list[dict[str, object]]:
    calls = [_tool_call(call, JsonText(copy.mapping(call["args"]))) for call in message.tool_calls]
    return calls + [_tool_call(call, call["args"]) for call in message.invalid_tool_calls]


def _tool_call(call: ToolCall | InvalidToolCall, arguments: object) -> dict[str, object]:
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _joined(blocks: Sequence[object], key: str) -> str:
    """Join the texts of all content blocks of a kind."""
    parts = ({"text": block} if isinstance(block, str) else block for block in blocks)
    texts = (part.get(key) for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _reasoning(blocks: Sequence[object]) -> str:
    """Join the reasoning in content blocks of the Responses API, LangChain's v1 content or Anthropic."""
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
    """Whether a content block is something else than text, reasoning or a tool call: an image, a search."""
    return isinstance(block, dict) and block.get("type") not in _BLOCKS_SHOWN


def _document(document: Document, copy: Freezer) -> dict[str, object]:
    shown = {"page_content": copy(document.page_content), "metadata": copy(document.metadata)}
    return shown if document.id is None else {**shown, "id": document.id}


_NOTHING_MORE: Final[dict[str, Any]] = {"additional_kwargs": {}, "tool_calls": [], "invalid_tool_calls": []}
"""Copies of what is empty now and may be added to in place: compared with itself, a list never changes."""

_COPIERS: Final[tuple[tuple[type, Copier], ...]] = (
    (AIMessage, _answer_message),
    (ToolMessage, _tool_message),
    (ChatMessage, _chat_message),
    (BaseMessage, _plain_message),
    (Document, _document),
    (ChatPromptValue, lambda value, copy: {"messages": copy.items(value.messages)}),
    (PromptValue, lambda value, copy: copy(value.to_string())),
    # A model or chain among the inputs: only its name, since its fields hold clients, keys and addresses.
    (Runnable, lambda value, _copy: f"<{type(value).__name__}>"),
)


class MessageFreezer(Freezer):
    """A freezer that also copies values of LangChain's types."""

    copier_of = staticmethod(_copier)
