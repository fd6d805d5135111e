"""Creates the chains and agents to run; their models are scripted, so no network time hides a difference."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.tools import tool

__all__ = ["agent", "chain", "question", "task"]

TOOL_TEXT: Final = 500
"""Bytes of a tool's answer: with the model's text about 600 a round, 24 kB in forty rounds."""

STEPS_PER_ROUND: Final = 2
"""Steps of a graph in a round: the model and the tools."""

_numbers = itertools.count()


def question(size: int = 0) -> dict[str, str]:
    """Return a new question of at least `size` bytes."""
    return {"question": f"What is the capital of country {next(_numbers)}?".ljust(size, "x")}


def chain(tokens: int = 31) -> Runnable[dict[str, str], str]:
    """Return `prompt | model | parser`; streamed, its answer has `tokens` tokens."""
    prompt = ChatPromptTemplate.from_messages([("system", "You are terse."), ("user", "{question}")])
    answer = "Paris is the capital of France.".ljust(tokens, ".")
    return prompt | FakeListChatModel(responses=[answer]) | StrOutputParser()


class Scripted(BaseChatModel):
    """Calls one of two tools in each of `rounds` rounds, then answers."""

    rounds: int

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **settings: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model itself: its script contains the tool calls."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **settings: Any,
    ) -> ChatResult:
        done = sum(isinstance(one, ToolMessage) for one in messages)
        return ChatResult(generations=[ChatGeneration(message=self._say(done))])

    def _say(self, done: int) -> AIMessage:
        if done >= self.rounds:
            return AIMessage("That is all.")
        name = ("look_up", "measure")[done % 2]
        call = {"name": name, "args": {"subject": f"subject {done}"}, "id": f"call-{done}"}
        return AIMessage(f"Round {done}: I need to know more of this.", tool_calls=[call])


def _found(kind: str, subject: str) -> str:
    return f"{kind} {subject} {next(_numbers)}: ".ljust(TOOL_TEXT, "y")


@tool
def look_up(subject: str) -> str:
    """Look something up."""
    return _found("looked up", subject)


@tool
def measure(subject: str) -> str:
    """Measure something."""
    return _found("measured", subject)


@functools.cache
def agent(rounds: int) -> Any:
    """Return an agent that runs so many rounds."""
    from langchain.agents import create_agent  # noqa: PLC0415 - one row of many needs it

    made = create_agent(Scripted(rounds=rounds), [look_up, measure])
    return made.with_config(recursion_limit=STEPS_PER_ROUND * rounds + 10)


def task() -> dict[str, Any]:
    """Return a new question for an agent."""
    return {"messages": [("user", f"Find out about matter {next(_numbers)}.")]}
