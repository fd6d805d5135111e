"""Create answers: from a small table, from tool results, from a context, or as an echo."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from azure_emulator.reply import Answer, Reply, ToolCall
from azure_emulator.request import Request, text_of
from azure_emulator.schema import fill
from azure_emulator.script import Rule, Script
from azure_emulator.tokens import pieces
from azure_emulator.vectors import words

CAPITALS = {
    "Australia": "Canberra",
    "Brazil": "Brasília",
    "Canada": "Ottawa",
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "New Zealand": "Wellington",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Spain": "Madrid",
    "United Kingdom": "London",
}

_CAPITAL_OF = re.compile(f"capital of (?:the )?({'|'.join(CAPITALS)})", re.IGNORECASE)
_ABOUT = re.compile(r"\babout (?P<subject>[^.?!]+)", re.IGNORECASE)
_SUMMARY = re.compile(r"\bsum\b|\bsummar", re.IGNORECASE)
_CONTEXT = re.compile(
    r"context:\s*(?P<context>.+?)\s*question:\s*(?P<question>.+)", re.IGNORECASE | re.DOTALL
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_PLACES = {"city", "location", "place"}
_SAYS_NOTHING = {"get", "fetch"}
_LONGEST_ECHO = 40


def capital(request: Request) -> Reply | None:
    """Answer a question about a capital."""
    match = _CAPITAL_OF.search(request.question)
    if not match:
        return None
    country = match.group(1).title()
    return Answer(f"The capital of {country} is {CAPITALS[country]}.")


def summary(request: Request) -> Reply | None:
    """Summarize a conversation: repeat the answers of the assistant."""
    answers = [text_of(message) for message in request.messages if message.get("role") == "assistant"]
    return Answer(f"In short: {' '.join(answers)}") if answers and _SUMMARY.search(request.question) else None


def paragraph(request: Request) -> Reply | None:
    """Answer "tell me about ..." with a short paragraph."""
    match = _ABOUT.search(request.question)
    if not match:
        return None
    return Answer(
        f"A whole book could be written about {match['subject']}. This text comes from an emulator and is "
        "equal for every subject: its words arrive one by one, as tokens do, and the trace keeps them all."
    )


def from_context(request: Request) -> Reply | None:
    """Answer a retrieval prompt with the sentence of its context that is most similar to the question."""
    match = _CONTEXT.search("\n".join(map(text_of, request.messages)))
    if not match:
        return None
    asked = set(words(match["question"]))
    best = max(_SENTENCE.split(match["context"]), key=lambda sentence: len(asked & set(words(sentence))))
    return Answer(best if asked & set(words(best)) else "The context does not say.")


def from_tool_results(request: Request) -> Reply | None:
    """Answer with the results of the tools."""
    results = [text_of(message) for message in request.tool_results]
    return Answer(f"Here is what I found: {'; '.join(results)}.") if results else None


def forced_tool(request: Request) -> Reply | None:
    """Call the tool that the request requires."""
    tool = _demanded_tool(request)
    if tool is None or request.tool_results:
        return None
    return Answer(tool_calls=(call_of(tool, _spoken(request)),))


def tool_calls(request: Request) -> Reply | None:
    """Call every tool whose name contains a word of the question, once for each city in the question."""
    if request.tool_results:
        return None
    calls = tuple(call for tool in request.tools for call in _calls(tool, request.question))
    return Answer(tool_calls=calls) if calls else None


def structured(request: Request) -> Reply | None:
    """Answer with JSON in the format that the request requires."""
    schema = _demanded_schema(request)
    return None if schema is None else Answer(json.dumps(fill(schema, _spoken(request))))


def echo(request: Request) -> Reply:
    """Repeat the question if no other rule applies."""
    return Answer("You said:" + "".join(pieces(f" {request.question}")[:_LONGEST_ECHO]))


_SPOKEN: tuple[Rule, ...] = (from_tool_results, from_context, summary, capital, paragraph, echo)
PLAIN_RULES: tuple[Rule, ...] = (forced_tool, tool_calls, structured, *_SPOKEN)


def call_of(tool: Mapping[str, Any], text: str) -> ToolCall:
    """Return a call of a tool with arguments that match its schema."""
    return ToolCall(tool["name"], json.dumps(fill(tool.get("parameters", {}), text)))


def _calls(tool: Mapping[str, Any], question: str) -> Iterator[ToolCall]:
    telling = set(tool["name"].casefold().split("_")) - _SAYS_NOTHING
    if not telling & set(re.findall(r"\w+", question.casefold())):
        return
    place = next((name for name in tool.get("parameters", {}).get("properties", {}) if name in _PLACES), None)
    cities = [city for city in CAPITALS.values() if city in question]
    if place and cities:
        yield from (ToolCall(tool["name"], json.dumps({place: city})) for city in cities)
    else:
        yield call_of(tool, question)


def _demanded_schema(request: Request) -> Mapping[str, Any] | None:
    wanted = request.chat.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    schema: Mapping[str, Any] | None = wanted.get("json_schema", {}).get("schema")
    return schema


def _demanded_tool(request: Request) -> Mapping[str, Any] | None:
    choice = request.chat.get("tool_choice")
    if choice == "required":
        return next(iter(request.tools), None)
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    return next((tool for tool in request.tools if tool["name"] == name), None)


def _spoken(request: Request) -> str:
    reply = Script(_SPOKEN).reply(request)
    return reply.text if isinstance(reply, Answer) else ""
