"""The calling service: an agent with a tool that calls the other service."""

from __future__ import annotations

import socket

import httpx
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from distributed.serving import create_app, serve_on
from langchain_mlflow_tracer import MlflowTracer


def serve(listener: socket.socket, weather_service: str) -> None:
    """Answer questions until the process receives a signal."""
    with azure() as service, MlflowTracer() as tracer:
        app = create_app(tracer)

        @tool
        async def get_weather(city: str) -> str:
            """Return the weather in a city."""
            async with httpx.AsyncClient(base_url=weather_service) as client:
                answer = await client.get(f"/weather/{city}", headers=tracer.tracing_headers())
            return str(answer.raise_for_status().json())

        agent = create_agent(AzureChatOpenAI(**service.chat()), tools=[get_weather])

        @app.get("/ask")
        async def ask(question: str) -> dict[str, str | None]:
            result = await agent.ainvoke(
                {"messages": [HumanMessage(question)]},
                config={"callbacks": [tracer], "run_name": "traveller"},
            )
            return {"answer": result["messages"][-1].content, "trace_id": tracer.last_trace_id}

        serve_on(listener, app)
