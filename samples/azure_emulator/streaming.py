"""Send the events of a stream one after the other, until the end or until a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from azure_emulator.playback import Playback
from azure_emulator.reply import Answer, Fault


class ConnectionCutError(Exception):
    """The emulator closes this connection because of a directive."""


@dataclass(frozen=True, slots=True)
class Stream:
    """The server-sent events of a stream."""

    frames: Sequence[str]
    first_token: int
    """The index of the first event that contains a token, or of the last event if none does."""


async def play(playback: Playback, answer: Answer, stream: Stream) -> AsyncIterator[str]:
    """Yield the events of a stream."""
    for sent, frame in enumerate(stream.frames):
        if answer.fault and sent == stream.first_token + answer.fault.after:
            await _fail(playback, answer.fault)
        yield frame
        await pause(playback, answer.pace)


async def pause(playback: Playback, seconds: float) -> None:
    """Sleep, or return early if the server stops; in every case let other connections run."""
    if not seconds:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(playback.closing.wait(), seconds)


async def _fail(playback: Playback, fault: Fault) -> None:
    if fault.kind == "hang":
        await playback.closing.wait()
    raise ConnectionCutError


async def cut() -> AsyncIterator[str]:
    """Start to send an answer that is not streamed, and close the connection."""
    yield "{"
    raise ConnectionCutError
