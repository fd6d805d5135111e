"""Cuts a stream of server-sent events into lines, and selects the data that contains a mark."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["Events"]

MAX_LINE: Final = 2**20
"""Bytes kept of an unfinished line: a completion's chunk has hundreds. Longer lines are skipped."""

_DATA: Final = b"data:"
_ENDS: Final = (b"\n", b"\r")

_ANY_HEADER: Final = 32 + zlib.MAX_WBITS
"""Makes zlib detect whether the data is gzip or zlib ("deflate")."""


class Events:
    """Reads a stream chunk by chunk, and holds at most one unfinished line."""

    __slots__ = ("_inflate", "_line", "_mark", "_skips")

    def __init__(self, mark: bytes, *, compressed: bool = False) -> None:
        """Select data that contains `mark`; `compressed` is whether the stream is gzip or deflate."""
        self._mark = mark
        self._line = bytearray()
        self._skips = False
        self._inflate = zlib.decompressobj(_ANY_HEADER) if compressed else None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the marked data that this chunk completes.

        Raises:
            zlib.error: the stream is not compressed.
        """
        if self._inflate is None:
            return self._read(chunk)
        marked = []
        while chunk:
            # In pieces: a few bytes may decompress to gigabytes.
            marked += self._read(self._inflate.decompress(chunk, MAX_LINE))
            chunk = self._inflate.unconsumed_tail
        return marked

    def _read(self, text: bytes) -> list[bytes]:
        marked = []
        for part in text.splitlines(keepends=True):
            ends = part.endswith(_ENDS)
            if not self._skips:
                self._line += part
                self._skips = len(self._line) > MAX_LINE
            if self._skips:
                self._line.clear()
                self._skips = not ends
            elif ends:
                if self._line.startswith(_DATA) and self._mark in self._line:
                    marked.append(bytes(self._line[len(_DATA) :]).strip())
                self._line.clear()
        return marked
