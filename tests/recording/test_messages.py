"""A message that comes again in a trace is shown by the same copy, until it has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_mlflow_tracer.recording.content.freeze import Memory
from langchain_mlflow_tracer.recording.content.messages import MessageFreezer


def call(**args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"id": "1", "name": "f", "args": args}])


MESSAGES: list[BaseMessage] = [
    SystemMessage("be brief"),
    HumanMessage("hi", name="Ada"),
    AIMessage("yes"),
    AIMessage("yes", additional_kwargs={"refusal": None}),
    call(city="Rome", days=[1, 2]),
    ToolMessage("sunny", tool_call_id="1", name="f"),
    ToolMessage("no", tool_call_id="1", status="error"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_repeated_message_shares_its_first_copy(message: BaseMessage) -> None:
    memory = Memory()

    first = MessageFreezer(memory)(message)

    assert MessageFreezer(memory)(message) is first
    (among_others,) = MessageFreezer(memory).items([message])
    assert among_others is first
    assert first == MessageFreezer()(message)


def change_content(message: Any) -> None:
    message.content = "else"


def change_name(message: Any) -> None:
    message.name = "Bob"


def change_arguments(message: Any) -> None:
    message.tool_calls[0]["args"]["days"].append(3)


def change_tool(message: Any) -> None:
    message.tool_calls[0]["name"] = "g"


def change_identity(message: Any) -> None:
    message.tool_calls[0]["id"] = "2"


def add_call(message: Any) -> None:
    message.tool_calls.append({"id": "2", "name": "f", "args": {}})


def add_invalid_call(message: Any) -> None:
    message.invalid_tool_calls.append({"id": "2", "name": "f", "args": "{", "error": None})


def refuse(message: Any) -> None:
    message.additional_kwargs["refusal"] = "I will not"


def think(message: Any) -> None:
    message.additional_kwargs["reasoning_content"] = "hm"


def change_status(message: Any) -> None:
    message.status = "success" if message.status == "error" else "error"


def change_call_answered(message: Any) -> None:
    message.tool_call_id = "2"


@pytest.mark.parametrize(
    ("make", "change"),
    [
        *((lambda make=make: make("hi"), change) for make in (HumanMessage, SystemMessage, AIMessage)
          for change in (change_content, change_name)),
        *((lambda: call(days=[1]), change) for change in (
            change_content, change_name, change_arguments, change_tool, change_identity, add_call,
            add_invalid_call, think,
        )),
        (lambda: AIMessage(""), refuse),
        (lambda: AIMessage("yes"), think),
        (lambda: AIMessage("yes"), add_call),
        *((lambda: ToolMessage("x", tool_call_id="1"), change) for change in (
            change_content, change_name, change_status, change_call_answered,
        )),
        (lambda: ToolMessage("x", tool_call_id="1", status="error"), change_status),
    ],
)  # fmt: skip
def test_a_message_that_changed_in_place_is_copied_again(
    make: Callable[[], BaseMessage], change: Callable[[Any], None]
) -> None:
    memory = Memory()
    message = make()
    before = MessageFreezer(memory)(message)
    as_it_was = repr(before)

    change(message)

    assert MessageFreezer(memory)(message) == MessageFreezer()(message)
    assert MessageFreezer(memory)(message) != before
    assert repr(before) == as_it_was


class Table:
    """What cannot be compared, as a table of figures cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    def __bool__(self) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "table"


@pytest.mark.parametrize(
    "message",
    [
        call(figures=Table()),
        AIMessage("yes", additional_kwargs={"parsed": Table()}),
        call(deep=[{"a": Table()}]),
    ],
)
def test_a_message_with_values_that_cannot_be_compared_is_copied_every_time(message: AIMessage) -> None:
    memory = Memory()

    assert MessageFreezer(memory)(message) == MessageFreezer(memory)(message) == MessageFreezer()(message)


def test_a_message_of_several_blocks_is_copied_every_time() -> None:
    memory = Memory()
    message = HumanMessage([{"type": "text", "text": "a"}])
    before: Any = MessageFreezer(memory)(message)

    message.content[0]["text"] = "b"  # type: ignore[index]

    after: Any = MessageFreezer(memory)(message)
    assert (before["content"][0]["text"], after["content"][0]["text"]) == ("a", "b")
