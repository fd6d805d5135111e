"""Send a stream: its events one after the other, at their pace, up to where it hangs or breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from azure_emulator.playback import Playback
from azure_emulator.reply import Answer, Fault


class ConnectionCutError(Exception):
    """The emulator cuts this connection, as it was told to."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events, ready to be sent."""

    frames: Sequence[str]
    first_token: int
    """The place of the first event that brings a token, or of the last where none does."""


async def play(playback: Playback, answer: Answer, stream: Stream) -> AsyncIterator[str]:
    """Yield the events of a stream."""
    for sent, frame in enumerate(stream.frames):
        if answer.fault and sent == stream.first_token + answer.fault.after:
            await _fail(playback, answer.fault)
        yield frame
        await pause(playback, answer.pace)


async def pause(playback: Playback, seconds: float) -> None:
    """Sleep, unless the server stops; give way to other connections in any case."""
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
    """Begin a whole answer and cut it."""
    yield "{"
    raise ConnectionCutError
