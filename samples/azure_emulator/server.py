"""Run the emulator in a thread of this process, by default on a port that the system selects."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import uvicorn

from azure_emulator.app import create_app
from azure_emulator.connection import Connection
from azure_emulator.directives import DEFAULT_SCRIPT
from azure_emulator.playback import DEPLOYMENTS, Playback
from azure_emulator.request import Request
from azure_emulator.script import Script

LOOPBACK = "127.0.0.1"
START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0
GRACE = 1  # whole seconds for open connections to end; uvicorn takes an integer


class AzureEmulator:
    """A context manager that runs an Azure OpenAI resource on the loopback interface."""

    def __init__(
        self,
        script: Script = DEFAULT_SCRIPT,
        *,
        api_key: str = "emulator-key",
        port: int = 0,
        deployments: Mapping[str, str] = DEPLOYMENTS,
    ) -> None:
        self._playback = Playback(script, api_key, deployments)
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        listener = socket.create_server((LOOPBACK, self._port))
        # Connections inherit this option. Without it, Nagle's algorithm delays each body by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listener.getsockname()[1]
        self._server = _Server(self._playback)
        self._thread = threading.Thread(target=self._server.serve_on, args=(listener,), daemon=True)
        self._thread.start()
        self._server.await_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join(STOP_TIMEOUT)

    @property
    def connection(self) -> Connection:
        """The endpoint, key and deployments for a client."""
        return Connection(self.endpoint, self.api_key, self.deployment, self.embedding_deployment)

    @property
    def endpoint(self) -> str:
        """The base address, as in AZURE_OPENAI_ENDPOINT."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def api_key(self) -> str:
        """The only valid key."""
        return self._playback.api_key

    @property
    def deployment(self) -> str:
        """The first deployment of a chat model."""
        return next(name for name, model in self._playback.deployments.items() if not _embeds(model))

    @property
    def embedding_deployment(self) -> str:
        """The first deployment of an embedding model."""
        return next((name for name, model in self._playback.deployments.items() if _embeds(model)), "")

    @property
    def requests(self) -> list[Request]:
        """All received requests in order, including rejected ones."""
        return self._playback.requests

    @contextmanager
    def playing(self, script: Script) -> Iterator[Self]:
        """Use another script until the block ends."""
        before, self._playback.script = self._playback.script, script
        try:
            yield self
        finally:
            self._playback.script = before

    def chat(self) -> dict[str, Any]:
        """Return the arguments for `AzureChatOpenAI`."""
        return self.connection.chat()

    def embeddings(self) -> dict[str, Any]:
        """Return the arguments for `AzureOpenAIEmbeddings`."""
        return self.connection.embeddings()


class _Server(uvicorn.Server):
    """A Uvicorn server that reports when it is ready, and closes hanging connections when it stops."""

    def __init__(self, playback: Playback) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(playback),
                log_config=None,
                log_level="critical",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE,
            )
        )
        self._closing = playback.closing
        self._settled = threading.Event()

    def serve_on(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self.serve(sockets=[listener]))
        finally:
            self._settled.set()

    def await_start(self) -> None:
        self._settled.wait(START_TIMEOUT)
        if not self.started:
            raise RuntimeError("The Azure emulator did not start.")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._settled.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing.set()
        await super().shutdown(sockets)


def _embeds(model: str) -> bool:
    return model.startswith("text-embedding")
