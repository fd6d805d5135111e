"""Makes the traces that are looked at in a browser, by real agents, chains and graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer

__all__ = ["Run", "Shown", "assistant", "forms", "make"]

Run = Callable[[RunnableConfig], Any]

PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
"""One pixel: enough to see whether it is drawn."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A trace that MLflow has, and what its run returned; None where it failed."""

    trace_id: str
    result: Any


@tool
def get_weather(city: str) -> str:
    """Say what the weather is in a city."""
    return f"{city}: rain, 11 °C"


@tool
def get_tides(city: str) -> str:
    """Say when the tide is high in a city."""
    raise ConnectionError(f"the tide tables of {city} cannot be reached")


class Library(BaseRetriever):
    """Finds the rules of a library, with a score of how near they are to the question."""

    rules: InMemoryVectorStore

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        matches = self.rules.similarity_search_with_score(query, k=2)
        return [Document(one.page_content, metadata={**one.metadata, "score": near}) for one, near in matches]


def make(tracer: MlflowTracer, runs: Mapping[str, Run]) -> dict[str, Shown]:
    """Run all, each under its name, and wait until MLflow has their traces."""
    made = {}
    for name, run in runs.items():
        result = None
        with contextlib.suppress(ConnectionError):
            result = run({"callbacks": [tracer], "run_name": name, "metadata": {"user_id": "ada"}})
        made[name] = Shown(tracer.last_trace_id or "", result)
    assert tracer.flush(timeout=60), tracer.stats()
    return made


def assistant(emulator: AzureEmulator) -> dict[str, Run]:
    """Return what an assistant is asked in two conversations, and a few chains."""
    model = AzureChatOpenAI(**emulator.chat())
    agent = create_agent(model, [get_weather, get_tides], checkpointer=InMemorySaver())
    about = ChatPromptTemplate.from_template("Tell me about {subject}.") | model | StrOutputParser()
    return {
        "picture": lambda config: model.invoke([_with_picture("What is in this picture?")], config),
        "streamed": lambda config: list(about.stream({"subject": "the sea"}, config)),
        "failing": _asking(agent, [("user", "When are the tides in Lima?")], "trip 16"),
        "library": lambda config: _library(emulator).invoke("How often may books be renewed?", config),
        "weather": _asking(agent, [("user", "What is the weather in Paris?")], "trip 17"),
        "capital": _asking(agent, [("user", "And what is the capital of France?")], "trip 17"),
    }


def forms(emulator: AzureEmulator) -> dict[str, Run]:
    """Return the forms in which LangGraph takes a message, and one in Japanese."""
    model = AzureChatOpenAI(**emulator.chat())

    def respond(state: MessagesState) -> dict[str, object]:
        return {"messages": [model.invoke(state["messages"])]}

    graph: Runnable[Any, Any] = (
        StateGraph(MessagesState).add_node(respond).add_edge(START, "respond").compile()
    )
    question = "What is the capital of Norway?"
    return {
        "message": _asking(graph, [HumanMessage(question)]),
        "pair": _asking(graph, [("user", question)]),
        "dict": _asking(graph, [{"role": "user", "content": question}]),
        "japanese": _asking(graph, [HumanMessage("東京の天気を教えてください")]),
    }


def _asking(graph: Runnable[Any, Any], messages: object, thread: str | None = None) -> Run:
    thread_of: RunnableConfig = {"configurable": {"thread_id": thread}} if thread else {}
    return lambda config: graph.invoke({"messages": messages}, {**config, **thread_of})


def _with_picture(text: str) -> HumanMessage:
    picture = {"type": "image_url", "image_url": {"url": PICTURE}}
    return HumanMessage([{"type": "text", "text": text}, picture])


def _library(emulator: AzureEmulator) -> Runnable[str, str]:
    rules = InMemoryVectorStore.from_texts(
        ["Books are lent for four weeks and may be renewed twice.", "The library opens at nine."],
        AzureOpenAIEmbeddings(**emulator.embeddings()),
        metadatas=[{"source": "lending.md"}, {"source": "hours.md"}],
    )
    context = Library(rules=rules) | _as_text
    prompt = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
    model = AzureChatOpenAI(**emulator.chat())
    return {"context": context, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()


def _as_text(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents)
