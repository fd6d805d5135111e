"""Builds the chains, graphs and agents whose trees `test_structure` knows, each around one model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias, TypedDict

from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool, tool
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from tests.support.stored import Shape
from tests.support.versions import AGENT

Chain: TypeAlias = Runnable[Any, Any]

MODEL: Final[Shape] = ("AzureChatOpenAI", "CHAT_MODEL", [])
STEPS: Final[list[Shape]] = [
    ("ChatPromptTemplate", "CHAIN", []),
    MODEL,
    ("StrOutputParser", "PARSER", []),
]
SEQUENCE: Final[Shape] = ("RunnableSequence", "CHAIN", STEPS)
PARALLEL: Final[Shape] = ("both", "CHAIN", [("RunnableSequence", "CHAIN", STEPS)] * 2)
LAMBDA: Final[Shape] = ("ask", "CHAIN", [MODEL])
MAP_REDUCE: Final[Shape] = (
    "atlas", "CHAIN", [("plan", "CHAIN", []), LAMBDA, LAMBDA, ("tell", "CHAIN", [])],
)  # fmt: skip
SUBGRAPH: Final[Shape] = ("world", "CHAIN", [("continent", "CHAIN", [MAP_REDUCE])])
WEATHER: Final[Shape] = ("get_weather", "TOOL", [])


def edge(name: str) -> list[Shape]:
    """Return the run in which an agent decides where to go on: LangChain 1.0 tells of it, 1.4 does not."""
    return [] if AGENT == "AGENT" else [(name, "CHAIN", [])]


ASKING: Final[Shape] = ("model", "CHAIN", [MODEL, *edge("model_to_tools")])


def agent(name: str, tool_call: Shape) -> Shape:
    """Return the tree of an agent that asks its model, calls one tool, and asks again."""
    return (name, AGENT, [ASKING, ("tools", "CHAIN", [tool_call, *edge("tools_to_model")]), ASKING])


EXPERT: Final = agent("expert", WEATHER)
BOSS: Final = agent("boss", ("ask_expert", "TOOL", [EXPERT]))


class Atlas(TypedDict):
    """What a graph knows: places, and what it has heard of them."""

    places: Sequence[str]
    heard: Annotated[list[str], operator.add]


def sequence(model: AzureChatOpenAI) -> Chain:
    """Make a prompt, a model and a parser; it is given a `place`."""
    return ChatPromptTemplate.from_template("Tell me of {place}.") | model | StrOutputParser()


def parallel(model: AzureChatOpenAI) -> Chain:
    """Make two sequences that run at once."""
    return RunnableParallel(one=sequence(model), two=sequence(model)).with_config(run_name="both")


def without_config(model: AzureChatOpenAI) -> Chain:
    """Make a function that calls the model and passes nothing on."""

    def ask(place: str) -> str:
        return model.invoke(place).text

    async def also_ask(place: str) -> str:
        return (await model.ainvoke(place)).text

    return RunnableLambda(ask, also_ask, name="ask")


def map_reduce(model: AzureChatOpenAI, *, asynchronous: bool = False) -> Chain:
    """Make a graph that sends every place to a separate node, and joins the answers."""

    def plan(state: Atlas) -> Command[str]:
        return Command(goto=[Send("ask", {"place": place}) for place in state["places"]])

    def ask(state: dict[str, str]) -> dict[str, list[str]]:
        return {"heard": [model.invoke(state["place"]).text]}

    async def also_ask(state: dict[str, str]) -> dict[str, list[str]]:
        return {"heard": [(await model.ainvoke(state["place"])).text]}

    def tell(state: Atlas) -> dict[str, list[str]]:
        return {"heard": [" ".join(state["heard"])]}

    node: Any = also_ask if asynchronous else ask
    builder = StateGraph(Atlas).add_node("plan", plan, destinations=("ask",)).add_node("ask", node)
    builder.add_node("tell", tell).add_edge(START, "plan").add_edge("ask", "tell").add_edge("tell", END)
    return builder.compile(name="atlas")


def with_subgraph(model: AzureChatOpenAI, *, asynchronous: bool = False) -> Chain:
    """Make a graph of which one node is a graph."""
    node: Any = map_reduce(model, asynchronous=asynchronous)
    builder = StateGraph(Atlas).add_node("continent", node).add_edge(START, "continent")
    return builder.compile(name="world")


def calling_a_graph(model: AzureChatOpenAI, *, asynchronous: bool = False) -> Chain:
    """Make a graph of which one node calls a graph and passes nothing on."""
    inner = map_reduce(model, asynchronous=asynchronous)

    def continent(state: Atlas) -> dict[str, list[str]]:
        return {"heard": inner.invoke(state)["heard"]}

    async def also_continent(state: Atlas) -> dict[str, list[str]]:
        return {"heard": (await inner.ainvoke(state))["heard"]}

    node: Any = also_continent if asynchronous else continent
    builder = StateGraph(Atlas).add_node("continent", node).add_edge(START, "continent")
    return builder.compile(name="world")


@tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def agent_in_a_tool(model: AzureChatOpenAI) -> Chain:
    """Make an agent whose only tool asks another agent, and passes nothing on."""
    expert: Chain = create_agent(model, [get_weather], name="expert")

    def question(place: str) -> dict[str, Any]:
        return {"messages": [("user", f'[[call get_weather {{"city": "{place}"}}]]')]}

    def ask_expert(place: str) -> str:
        return str(expert.invoke(question(place))["messages"][-1].text)

    async def also_ask_expert(place: str) -> str:
        return str((await expert.ainvoke(question(place)))["messages"][-1].text)

    asking = StructuredTool.from_function(
        ask_expert, also_ask_expert, name="ask_expert", description="Ask an expert."
    )
    return create_agent(model, [asking], name="boss")


def to_boss(place: str) -> dict[str, Any]:
    """Return what makes the agent ask its tool about a place."""
    return {"messages": [("user", f'[[call ask_expert {{"place": "{place}"}}]]')]}


def to_atlas(*places: str) -> Atlas:
    """Return what makes a graph ask about places."""
    return {"places": places, "heard": []}
