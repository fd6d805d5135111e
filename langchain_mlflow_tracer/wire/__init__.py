"""Gives models HTTP clients on which the tracer sees what LangChain does not tell."""

from __future__ import annotations

from typing import Any

from langchain_mlflow_tracer.core.errors import ConfigurationError

__all__ = ["http_clients"]


def http_clients(**httpx_options: Any) -> dict[str, Any]:
    """Return the HTTP clients for a model or for embeddings: `AzureChatOpenAI(…, **http_clients())`.

    They send and receive as the OpenAI SDK's own clients do, with its timeouts, limits, redirects, and the
    environment's proxies. What passes is only read: the verdicts of content filters, also in streams; which
    of them tripped; region, request id and rate limit; each retry of the SDK with its wait, as an event; and
    every call of an embedding model, as a span of its own. Without these clients none of that is known,
    but for what an invoked model's answer or an exception tells. Nothing is read unless a tracer hears of
    the run; no key, address or other header is recorded.

    Three things to know (langchain-openai 1.7). A model that is given HTTP clients reports the tokens of a
    stream only when it is told `stream_usage=True`. ChatOpenAI takes no `openai_proxy` beside them: give
    `proxy` here. And ChatOpenAI, not AzureChatOpenAI, sets TCP keepalive on clients that it makes itself;
    these leave that to the system.

    Args:
        httpx_options: arguments of both `httpx.Client` and `httpx.AsyncClient`: `timeout`, `verify`,
            `proxy`, `limits` and others. A `transport` switches proxies from the environment off.

    Returns:
        `http_client` and `http_async_client`, new ones at each call: the arguments of langchain-openai's
        classes. Models may share them; they live as long as the model does.

    Raises:
        ConfigurationError: the package openai is not installed.
        TypeError: httpx does not know an option.
    """
    try:
        # It takes a second to import, and is there anyway once a model of it is.
        from langchain_mlflow_tracer.wire.client import AsyncClient, Client  # noqa: PLC0415
    except ImportError as error:
        expected = "http_clients needs the package openai: install langchain-mlflow-tracer[azure]"
        raise ConfigurationError("openai", None, expected) from error
    return {"http_client": Client(**httpx_options), "http_async_client": AsyncClient(**httpx_options)}
