"""Connect to your Azure OpenAI resource if the environment names one, otherwise to an emulated resource.

Three variables together name your resource: AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY and
AZURE_OPENAI_DEPLOYMENT. AZURE_OPENAI_EMBEDDING_DEPLOYMENT and OPENAI_API_VERSION are optional.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from azure_emulator import DEFAULT_API_VERSION, AzureEmulator, Connection


@contextmanager
def azure() -> Iterator[Connection]:
    """Yield the connection to an Azure OpenAI resource that exists until the block ends."""
    yours = _yours()
    if yours:
        yield yours
        return
    print("AZURE_OPENAI_ENDPOINT, _API_KEY and _DEPLOYMENT are not set: using an emulator on this machine.\n")
    with AzureEmulator() as emulator:
        yield emulator.connection


def _yours() -> Connection | None:
    names = ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_DEPLOYMENT")
    endpoint, api_key, deployment = (os.environ.get(name, "") for name in names)
    if not (endpoint and api_key and deployment):
        return None
    return Connection(
        endpoint,
        api_key,
        deployment,
        os.environ.get("AZURE_OPENAI_EMBEDDING_DEPLOYMENT", "text-embedding-3-small"),
        os.environ.get("OPENAI_API_VERSION", DEFAULT_API_VERSION),
    )
