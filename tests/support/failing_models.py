"""Lets models fail that have no HTTP clients of ours: `python -m tests.support.failing_models JSON`.

JSON has the parameters of `main`. Each case is a trace in the spool, named as the case.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any, Final

import openai
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI
from opentelemetry.sdk.trace import TracerProvider
from pydantic import SecretStr

from langchain_mlflow_tracer import MlflowTracer

__all__ = ["WAYS"]


class OddError(Exception):
    """An exception that cannot be read."""

    @property
    def response(self) -> object:
        """Raise what no getter should raise."""
        raise RuntimeError


def fail_oddly(_: object) -> None:
    raise OddError


WAYS: Final = ("invoke", "stream", "ainvoke", "astream")
"""How a model may be asked."""


async def ask(model: Runnable[Any, Any], text: str, way: str, config: Any) -> None:
    """Ask a model, and take all of its answer."""
    match way:
        case "invoke":
            model.invoke(text, config)
        case "stream":
            list(model.stream(text, config))
        case "ainvoke":
            await model.ainvoke(text, config)
        case _:
            async for _ in model.astream(text, config):
                pass


async def main(spool: str, chat: dict[str, Any], embeddings: dict[str, Any]) -> None:
    """Let each case fail, at the emulator that `chat` and `embeddings` name."""
    settings: dict[str, Any] = {**chat, "max_retries": 0}
    model = AzureChatOpenAI(**settings)
    tracer = MlflowTracer("http://127.0.0.1:9", forwarder="none", durability="sync", spool_dir=spool)
    bare = MlflowTracer(
        "http://127.0.0.1:9", forwarder="none", durability="sync", spool_dir=spool, capture="metadata"
    )

    async def attempt(
        name: str, asked: Runnable[Any, Any], text: str, way: str = "invoke", by: Any = tracer
    ) -> None:
        with suppress(openai.OpenAIError, OddError):
            await ask(asked, text, way, {"callbacks": [by], "run_name": name})

    for way in WAYS:
        await attempt(f"refused prompt, {way}", model, "hi [[filter:prompt jailbreak]]", way)
        await attempt(f"401, {way}", model, "hi [[401]]", way)
        await attempt(f"429, {way}", model, "hi [[429 after 3]]", way)
        await attempt(f"500, {way}", model, "hi [[500]]", way)
    await attempt("only metadata", model, "hi [[filter:prompt jailbreak]]", by=bare)
    await attempt("sent again", AzureChatOpenAI(**{**settings, "max_retries": 2}), "hi [[429]]")
    await attempt(
        "no connection", AzureChatOpenAI(**{**settings, "azure_endpoint": "http://127.0.0.1:9"}), "hi"
    )
    await attempt("timeout", AzureChatOpenAI(**{**settings, "timeout": 0.2}), "hi [[hang]]")
    openais = ChatOpenAI(
        base_url=f"{chat['azure_endpoint']}/openai/v1", api_key=SecretStr("wrong"), model="m", max_retries=0
    )
    await attempt("a client that is not Azure's", openais, "hi")

    def ask_twice(_: str, config: RunnableConfig) -> None:
        asked: list[list[BaseMessage]] = [[HumanMessage("hi [[500]]")], [HumanMessage("hi [[429 after 3]]")]]
        model.generate(asked, callbacks=config["callbacks"])

    await attempt("several prompts", RunnableLambda(ask_twice), "")
    store = InMemoryVectorStore(AzureOpenAIEmbeddings(**embeddings, max_retries=0))
    await attempt("retriever", store.as_retriever(), "hi [[429 after 3]]")
    await attempt("an exception that cannot be read", RunnableLambda(fail_oddly), "")
    await attempt("whole chain", RunnableLambda(str) | model, "hi [[429 after 3]]")
    with TracerProvider().get_tracer("application").start_as_current_span("around"):
        await attempt("inside a span of OpenTelemetry", model, "hi [[500]]")
    tracer.close()
    bare.close()
    unrelated = ("langchain_mlflow_tracer.wire", "opentelemetry.trace.propagation.tracecontext")
    imported = [name for name in sys.modules if name.startswith(unrelated)]
    assert not imported, imported


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
