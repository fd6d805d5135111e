"""Trace a graph with a memory: two turns of one thread become two traces of one session."""

from __future__ import annotations

from typing import Literal

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import AzureChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show

Update = dict[str, list[BaseMessage]]


def build(model: AzureChatOpenAI) -> CompiledStateGraph[MessagesState]:
    """Build a graph that answers, and from the second question on also summarizes."""

    def respond(state: MessagesState) -> Update:
        return {"messages": [model.invoke(state["messages"])]}

    def sum_up(state: MessagesState) -> Update:
        return {"messages": [model.invoke([*state["messages"], HumanMessage("Sum this conversation up.")])]}

    def next_node(state: MessagesState) -> Literal["sum_up", "__end__"]:
        return "sum_up" if sum(message.type == "human" for message in state["messages"]) > 1 else "__end__"

    graph = StateGraph(MessagesState).add_node(respond).add_node(sum_up)
    graph.add_edge(START, "respond").add_conditional_edges("respond", next_node)
    return graph.compile(checkpointer=InMemorySaver(), name="assistant")


def main() -> None:
    """Ask twice in one thread, and show both traces."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        graph = build(AzureChatOpenAI(**service.chat()))
        config: RunnableConfig = {"callbacks": [tracer], "configurable": {"thread_id": "a-sample-thread"}}
        traces = []
        for question in ("What is the capital of Norway?", "And what is the capital of Peru?"):
            result = graph.invoke({"messages": [HumanMessage(question)]}, config)
            print(result["messages"][-1].content)
            traces.append(tracer.last_trace_id)

        show(tracer, *traces)


if __name__ == "__main__":
    main()
