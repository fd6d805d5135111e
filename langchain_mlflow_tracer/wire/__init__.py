"""Gives models HTTP clients from which the tracer reads facts that LangChain does not pass on."""

from __future__ import annotations

from typing import Any

from langchain_mlflow_tracer.core.errors import ConfigurationError

__all__ = ["http_clients"]


def http_clients(**httpx_options: Any) -> dict[str, Any]:
    """Return the HTTP clients for a model or for embeddings: `AzureChatOpenAI(…, **http_clients())`.

    They send and receive as the OpenAI SDK's own clients do, with its timeouts, limits, redirects, and the
    environment's proxies. The tracer only reads: the verdicts of content filters, also in streams; which
    filters tripped; region, request id and rate limit; each retry of the SDK with its wait, as an event; and
    every call of an embedding model, as a span. Without these clients, only the facts in an invoked model's
    answer or in an exception are known. Nothing is read unless a tracer records the run; no key, address or
    other header is recorded.

    Three notes (langchain-openai 1.7). A model with HTTP clients of its own reports the tokens of a stream
    only with `stream_usage=True`. ChatOpenAI accepts no `openai_proxy` beside them: pass `proxy` here.
    ChatOpenAI, not AzureChatOpenAI, sets TCP keepalive on clients that it creates itself; these clients leave
    that to the system.

    Args:
        httpx_options: arguments of both `httpx.Client` and `httpx.AsyncClient`: `timeout`, `verify`,
            `proxy`, `limits` and others. With a `transport`, proxies from the environment are not used.

    Returns:
        `http_client` and `http_async_client`, new at each call: the arguments of langchain-openai's classes.
        Models may share them; they live as long as the model does.

    Raises:
        ConfigurationError: the package openai is not installed.
        TypeError: httpx does not know an option.
    """
    try:
        # Imported late: openai takes a second, and an application that has a model of it has imported it.
        from langchain_mlflow_tracer.wire.client import AsyncClient, Client  # noqa: PLC0415
    except ImportError as error:
        expected = "http_clients needs the package openai: install langchain-mlflow-tracer[azure]"
        raise ConfigurationError("openai", None, expected) from error
    return {"http_client": Client(**httpx_options), "http_async_client": AsyncClient(**httpx_options)}
