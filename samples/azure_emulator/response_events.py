"""Create the events of a streamed response: for each item, each part and each token."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from azure_emulator.reply import Answer
from azure_emulator.request import Request
from azure_emulator.responses import response, unfinished
from azure_emulator.streaming import Stream
from azure_emulator.tokens import pieces

Json = dict[str, Any]

_TOKENS = {
    "response.output_text.delta",
    "response.refusal.delta",
    "response.function_call_arguments.delta",
}
"""The events that contain a token of the answer; the events of the reasoning come earlier."""

_UNSAID: dict[str, Json] = {
    "reasoning": {"summary": []},
    "message": {"status": "in_progress", "content": []},
    "function_call": {"status": "in_progress", "arguments": ""},
}
"""The values that replace the content of an item in the event that adds it."""


def response_stream(request: Request, answer: Answer, created: int) -> Stream:
    """Return the stream of a response; it has no `[DONE]` at the end."""
    events = [{**event, "sequence_number": n} for n, event in enumerate(_events(request, answer, created))]
    first_token = next((n for n, event in enumerate(events) if event["type"] in _TOKENS), len(events) - 1)
    frames = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
    return Stream(frames, first_token)


def _events(request: Request, answer: Answer, created: int) -> Iterator[Json]:
    opening = unfinished(request, created)
    yield {"type": "response.created", "response": opening}
    yield {"type": "response.in_progress", "response": opening}
    whole = response(request, answer, created)
    for index, item in enumerate(whole["output"]):
        announced = {**item, **_UNSAID[item["type"]]}
        yield {"type": "response.output_item.added", "output_index": index, "item": announced}
        for event in _TOLD[item["type"]](item):
            yield {**event, "item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _reasoning(item: Json) -> Iterator[Json]:
    for index, part in enumerate(item["summary"]):
        place = {"summary_index": index}
        text = part["text"]
        yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
        for piece in pieces(text):
            yield {"type": "response.reasoning_summary_text.delta", **place, "delta": piece}
        yield {"type": "response.reasoning_summary_text.done", **place, "text": text}
        yield {"type": "response.reasoning_summary_part.done", **place, "part": part}


def _message(item: Json) -> Iterator[Json]:
    for index, part in enumerate(item["content"]):
        place = {"content_index": index}
        kind = part["type"]
        field = "text" if kind == "output_text" else kind
        also: Json = {"logprobs": []} if kind == "output_text" else {}
        yield {"type": "response.content_part.added", **place, "part": {**part, field: ""}}
        for piece in pieces(part[field]):
            yield {"type": f"response.{kind}.delta", **place, "delta": piece, **also}
        yield {"type": f"response.{kind}.done", **place, field: part[field], **also}
        yield {"type": "response.content_part.done", **place, "part": part}


def _call(item: Json) -> Iterator[Json]:
    arguments = item["arguments"]
    for piece in pieces(arguments):
        yield {"type": "response.function_call_arguments.delta", "delta": piece}
    yield {"type": "response.function_call_arguments.done", "arguments": arguments}


_TOLD: dict[str, Callable[[Json], Iterator[Json]]] = {
    "reasoning": _reasoning,
    "message": _message,
    "function_call": _call,
}
