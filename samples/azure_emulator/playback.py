"""Store the state of a running emulator: the current script and the received requests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from azure_emulator.request import Request
from azure_emulator.script import Script

DEPLOYMENTS = {
    "gpt-4o-prod": "gpt-4o-2024-11-20",
    "gpt-4o-mini-prod": "gpt-4o-mini-2024-07-18",
    "embeddings-prod": "text-embedding-3-small",
}


@dataclass(slots=True)
class Playback:
    """A running emulator: one script, one key, some deployments, and all received requests."""

    script: Script
    api_key: str
    deployments: Mapping[str, str] = field(default_factory=lambda: DEPLOYMENTS)
    now: Callable[[], float] = time.time
    requests: list[Request] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops, so that hanging connections do not delay it."""
    _arrivals: Counter[tuple[str, str, bytes]] = field(default_factory=Counter)

    def receive(
        self, operation: str, deployment: str | None, api_version: str, headers: Mapping[str, str], raw: bytes
    ) -> Request:
        """Store a received request, with its number among all requests and among equal requests."""
        body = _parsed(raw)
        name = str(body.get("model")) if deployment is None else deployment
        key = (operation, name, hashlib.blake2b(raw, digest_size=16).digest())
        request = Request(
            operation=operation,
            deployment=name,
            model=self.deployments.get(name, ""),
            api_version=api_version,
            headers=dict(headers),
            body=body,
            serial=len(self.requests) + 1,
            earlier=self._arrivals[key],
        )
        self._arrivals[key] += 1
        self.requests.append(request)
        return request


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
