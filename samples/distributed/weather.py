"""The called service: its runs become part of the caller's trace."""

from __future__ import annotations

import socket

from fastapi import Request
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from distributed.serving import create_app, serve_on
from langchain_mlflow_tracer import MlflowTracer, join_trace

REPORT = "In Paris there is rain at 11 °C.\nIn Tokyo it is clear at 19 °C.\nIn Oslo there is snow at -3 °C."
PROMPT = "Answer from the context only.\n\nContext:\n{report}\n\nQuestion: What is the weather in {city}?"


def serve(listener: socket.socket) -> None:
    """Return the weather in a city, until the process receives a signal."""
    with azure() as service, MlflowTracer() as tracer:
        app = create_app(tracer)
        model = AzureChatOpenAI(**service.chat())
        chain = ChatPromptTemplate.from_template(PROMPT) | model | StrOutputParser()

        @app.get("/weather/{city}")
        async def weather(city: str, request: Request) -> str:
            with join_trace(request.headers):
                return await chain.ainvoke(
                    {"city": city, "report": REPORT},
                    config={"callbacks": [tracer], "run_name": "weather service"},
                )

        serve_on(listener, app)
