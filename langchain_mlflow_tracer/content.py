"""Turns LangChain's values into what MLflow shows: role messages, choices, usage, documents, tools.

Everything here runs on the caller's thread and returns frozen copies (see `freeze`). The shapes are those
that MLflow's UI renders as a chat (seen in mlflow 3.17.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable

from langchain_mlflow_tracer import graph
from langchain_mlflow_tracer.foreign import attempt
from langchain_mlflow_tracer.freeze import TYPES_KNOWN, Copier, Freezer, copier
from langchain_mlflow_tracer.record import JsonText
from langchain_mlflow_tracer.usage import Usage

__all__ = [
    "Answer",
    "Shape",
    "chat_inputs",
    "conversation",
    "freezer",
    "left_with",
    "llm_inputs",
    "parameters",
    "plain",
    "request_attributes",
    "says_something",
    "tool_attributes",
    "tool_definitions",
    "tool_output",
]

# MLflow renders a conversation as a chat only when every role is one of these four.
_ROLES: Final = {
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

_ROLES_WRITTEN: Final = tuple(_ROLES)
"""A tuple: what is looked for may be of a type that no dict takes for a key."""

# Parameters of a model call that are safe and worth showing. An allow-list: what is beside them in
# LangChain's invocation parameters may be a header or an address. Not `stream`: it says what the client was
# made with, also when a stream is asked for (langchain-openai 1.7).
_PARAMETERS: Final = frozenset({
    "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "n", "parallel_tool_calls",
    "presence_penalty", "reasoning", "reasoning_effort", "response_format", "seed", "service_tier", "stop",
    "temperature", "tool_choice", "top_k", "top_logprobs", "top_p", "verbosity",
})  # fmt: skip

# Of the types of blocks there are tuples: a type may itself be of a type that no set takes.

# Content blocks whose content stands elsewhere in an answer: its text, its reasoning, its tool calls.
_BLOCKS_SHOWN: Final = (
    "text", "text-plain", "output_text", "refusal", "reasoning", "thinking", "tool_call", "tool_call_chunk",
    "invalid_tool_call", "tool_use", "input_json_delta", "function_call", "custom_tool_call", None,
)  # fmt: skip

# Content blocks that may refer to something elsewhere, and the keys under which others hold it themselves.
_REFERRING: Final = ("image", "audio", "video", "file", "document", "input_image", "input_file")
_HOLDING: Final = frozenset({"base64", "data", "file", "file_data", "source", "image_url"})

Shape: TypeAlias = Callable[..., object]
"""Copies a value in the form MLflow shows, given the value and a freezer."""


def freezer() -> Freezer:
    """Return a freezer that knows LangChain's types."""
    return Freezer(_copier)


@lru_cache(maxsize=TYPES_KNOWN)
def _copier(kind: type) -> Copier:
    for base, copy in _COPIERS:
        if issubclass(kind, base):
            return copy
    return _command if graph.is_command(kind) else copier(kind)


def _message(message: BaseMessage, copy: Freezer, kind: str | None = None) -> dict[str, object]:
    kind = kind or message.type
    role = _ROLES.get(kind)
    told = copy(message.content)
    if isinstance(told, list):
        told = [_drawable(block) if isinstance(block, dict) else block for block in told]
    shown: dict[str, object] = {"role": role or "user", "content": told}
    name = message.name or (None if role else kind)
    if name:
        shown["name"] = name
    return shown


def _command(command: object, copy: Freezer) -> object:
    """What a node of a graph tells it: the update alone where that is all, else what is said beside it."""
    told = {key: getattr(command, key, None) for key in ("update", "resume", "goto", "graph")}
    nothing = [key for key, item in told.items() if item is None or (isinstance(item, tuple) and not item)]
    said = {key: item for key, item in told.items() if key not in nothing}
    return copy(said["update"]) if set(said) == {"update"} else copy.mapping(said)


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


def _chat_message(message: ChatMessage, copy: Freezer) -> dict[str, object]:
    return _message(message, copy, message.role)


def _tool_message(message: ToolMessage, copy: Freezer) -> dict[str, object]:
    shown = _message(message, copy)
    shown["tool_call_id"] = message.tool_call_id
    if message.status == "error":
        shown["status"] = "error"
    return shown


def _answer_message(message: AIMessage, copy: Freezer) -> dict[str, object]:
    shown = _message(message, copy)
    if (
        isinstance(message.content, list)
        or message.additional_kwargs
        or message.tool_calls
        or message.invalid_tool_calls
    ):
        _complete_answer(shown, message, copy)
    return shown


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
        return {"role": _ROLES.get(str(message[0]), "user"), "content": message[1]}
    if isinstance(message, dict) and "content" in message:
        kind = str(message.get("role") or message.get("type") or "user")
        return {
            **{key: item for key, item in message.items() if key != "type"},
            "role": _ROLES.get(kind, "user"),
        }
    return message


def left_with(reason: object, copy: Freezer) -> object:
    """Copy why LangGraph left a node: what it waits for, as `invoke` returns it, or where it goes on."""
    asked = graph.interrupts(reason, copy)
    return {"__interrupt__": asked} if asked else copy(reason)


def plain(value: object, copy: Freezer) -> object:
    """Copy a value as it is; of a list that is one command, as agents' nodes return it, the command."""
    if isinstance(value, list) and len(value) == 1 and graph.is_command(type(value[0])):
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
        "mlflow.llm.provider": metadata.get("ls_provider"),
        "mlflow.llm.model": requested,
        "gen_ai.request.model": requested,
        "azure.deployment": deployment,
        "gen_ai.request.temperature": invocation.get("temperature"),
        "gen_ai.request.max_tokens": invocation.get("max_completion_tokens") or invocation.get("max_tokens"),
        "gen_ai.request.top_p": invocation.get("top_p"),
    }
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}


def tool_definitions(invocation: Mapping[str, object], copy: Freezer) -> object | None:
    """Copy the tools a model was offered, in OpenAI's form."""
    tools = invocation.get("tools") or invocation.get("functions")
    return copy(tools) if tools else None


def tool_output(output: object, copy: Freezer) -> object:
    """Copy what a tool returned: a message's content, else the value."""
    return copy(output.content if isinstance(output, ToolMessage) else output)


def tool_attributes(output: object) -> dict[str, object]:
    """Return what a tool said beside its content: whose call it answers, that it failed, what it returned."""
    if not isinstance(output, ToolMessage):
        return {}
    found = {
        "gen_ai.tool.call.id": output.tool_call_id,
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


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer, read once: its generations, and what the provider said of the whole."""

    generations: Sequence[Generation]
    infos: Sequence[Mapping[str, object]]
    facts: Mapping[str, object]
    usage: Usage

    @classmethod
    def of(cls, result: LLMResult) -> Answer:
        """Read LangChain's result; what a provider says stands in one of three places."""
        generations = _generations(result)
        infos = [_info(one) for one in generations]
        facts = dict(infos[0]) if infos else {}
        for key, value in (result.llm_output or {}).items():
            if value is not None:
                facts[key] = value
        return cls(generations, infos, facts, Usage.of(result))

    def outputs(self, copy: Freezer) -> dict[str, object]:
        """Copy it as OpenAI's chat completion, which MLflow renders as the end of a chat."""
        facts = self.facts
        shown = {
            "id": copy(facts.get("id")),
            "model": copy(facts.get("model_name") or facts.get("model")),
            "choices": [
                _choice(index, one, info, copy)
                for index, (one, info) in enumerate(zip(self.generations, self.infos, strict=True))
            ],
            "prompt_filter_results": copy(facts.get("prompt_filter_results")),
            "usage": _reported(copy(facts.get("token_usage"))),
        }
        return {key: value for key, value in shown.items() if value is not None}

    def attributes(self, deployment: object = None, served: object = None) -> dict[str, object]:
        """Return what a person searches model calls by, under OpenTelemetry's names (gen_ai semconv 1.38).

        A `deployment` is what was asked for on Azure. Where it is all that the answer names, only `served`,
        from the headers, can tell which model it was.
        """
        facts = self.facts
        reasons = [str(reason) for info in self.infos if (reason := _finish_reason(info))]
        named, tier = facts.get("model_name") or facts.get("model"), facts.get("service_tier")
        model = served if served and named == deployment else named
        found = {
            **self.usage.details,
            "mlflow.llm.model": self.usage.priced_model(model, tier, deployment),
            "mlflow.chat.tokenUsage": self.usage.tokens,
            "lc.from_cache": self.usage.is_from_cache or None,
            "gen_ai.response.id": facts.get("id"),
            "gen_ai.response.model": facts.get("model_name"),
            "gen_ai.response.finish_reasons": reasons or None,
            "gen_ai.openai.response.system_fingerprint": facts.get("system_fingerprint"),
            "gen_ai.openai.response.service_tier": tier,
        }
        return {key: value for key, value in found.items() if isinstance(value, str | int | list | dict)}


def _reported(usage: object) -> object:
    """The figures of a usage: what a provider does not report, its client fills with nothing."""
    if not isinstance(usage, dict):
        return usage
    return {key: _reported(item) for key, item in usage.items() if item is not None}


def says_something(result: LLMResult) -> bool:
    """Whether an answer that broke off had come to a text or a tool call."""
    messages = (one.message if isinstance(one, ChatGeneration) else one for one in _generations(result))
    return any(
        one.text or (isinstance(one, AIMessage) and (one.tool_calls or one.invalid_tool_calls))
        for one in messages
    )


def _generations(result: LLMResult) -> list[Generation]:
    return [one for row in result.generations for one in row]


def _info(generation: Generation) -> dict[str, object]:
    info: dict[str, object] = dict(generation.generation_info or {})
    if isinstance(generation, ChatGeneration):
        info.update(generation.message.response_metadata)
    return info


def _finish_reason(info: Mapping[str, object]) -> object:
    """Why an answer ended, in the words of chat completions, of Anthropic or of the Responses API."""
    incomplete = info.get("incomplete_details")
    broken_off = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    return info.get("finish_reason") or info.get("stop_reason") or broken_off or info.get("status")


def _choice(
    index: int, generation: Generation, info: Mapping[str, object], copy: Freezer
) -> dict[str, object]:
    if isinstance(generation, ChatGeneration):
        message = copy(generation.message)
    else:
        message = {"role": "assistant", "content": copy(generation.text)}
    choice: dict[str, object] = {"index": index, "message": message}
    if (reason := _finish_reason(info)) is not None:
        choice["finish_reason"] = copy(reason)
    for key in ("logprobs", "content_filter_results"):
        if info.get(key) is not None:
            choice[key] = copy(info[key])
    return choice


_COPIERS: Final[tuple[tuple[type, Copier], ...]] = (
    (AIMessage, _answer_message),
    (ToolMessage, _tool_message),
    (ChatMessage, _chat_message),
    (BaseMessage, _message),
    (Document, _document),
    (ChatPromptValue, lambda value, copy: {"messages": copy.items(value.messages)}),
    (PromptValue, lambda value, copy: copy(value.to_string())),
    # A model or chain among the inputs: its fields hold clients, keys and addresses.
    (Runnable, lambda value, _copy: f"<{type(value).__name__}>"),
)
