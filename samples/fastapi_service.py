"""Trace an asynchronous service: one tracer for the process, a session and a user for each request.

Run it to send a few requests to itself; with `--serve` it keeps running on port 8000.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import httpx
import uvicorn
from fastapi import FastAPI
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI

from azure_emulator import Connection
from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show

COUNTRIES = ("France", "Japan", "Peru", "Kenya", "Norway")


def create_app(service: Connection, tracer: MlflowTracer) -> FastAPI:
    """Create the service, with one chain and one tracer."""
    app = FastAPI()
    prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
    chain = prompt | AzureChatOpenAI(**service.chat()) | StrOutputParser()

    @app.get("/capital/{country}")
    async def capital(country: str, user: str, session: str) -> str:
        facts = {"user_id": user, "session_id": session}
        return await chain.ainvoke({"country": country}, config={"callbacks": [tracer], "metadata": facts})

    return app


async def ask_itself(app: FastAPI) -> None:
    """Start the service on a free port, send a few requests at the same time, and stop it."""
    listener = socket.create_server(("127.0.0.1", 0))  # it accepts connections before the server is ready
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    who = {"user": "ada", "session": "a-sample-session"}
    async with httpx.AsyncClient(base_url=address, params=who) as client:
        for answer in await asyncio.gather(*(client.get(f"/capital/{country}") for country in COUNTRIES)):
            print(answer.raise_for_status().json())
    server.should_exit = True
    await serving


def main() -> None:
    """Serve until the process is stopped, or answer a few requests only."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        app = create_app(service, tracer)
        if "--serve" in sys.argv:
            uvicorn.run(app, port=8000)
        else:
            asyncio.run(ask_itself(app))
            show(tracer)


if __name__ == "__main__":
    main()
