"""Trace an agent that calls two tools, some of them in parallel, before it answers."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show


@tool
def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"{city}: {'rain, 11 °C' if city == 'Paris' else 'clear, 19 °C'}"


@tool
def get_local_time(city: str) -> str:
    """Return the local time in a city."""
    return f"{city}: {'08:30' if city == 'Paris' else '15:30'}"


def main() -> None:
    """Ask about two cities, print the answer, and show the trace."""
    prepare_store()
    with azure() as service, MlflowTracer(session_id="a-sample-session", user_id="ada") as tracer:
        agent = create_agent(
            AzureChatOpenAI(**service.chat()),
            tools=[get_weather, get_local_time],
            system_prompt="You help travellers.",
        )
        question = "What are the weather and the local time in Paris and in Tokyo?"
        result = agent.invoke(
            {"messages": [HumanMessage(question)]}, config={"callbacks": [tracer], "run_name": "traveller"}
        )
        print(result["messages"][-1].content)

        show(tracer)


if __name__ == "__main__":
    main()
