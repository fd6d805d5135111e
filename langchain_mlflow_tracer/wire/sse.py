"""Cuts a stream of server-sent events into lines, and picks the data that has a mark in it."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["Events"]

MAX_LINE: Final = 2**20
"""Bytes of a line that are kept while it comes: a completion's chunk has hundreds. Longer are skipped."""

_DATA: Final = b"data:"
_ENDS: Final = (b"\n", b"\r")

_ANY_HEADER: Final = 32 + zlib.MAX_WBITS
"""Tells zlib to find out by itself whether what comes is gzip or zlib ("deflate")."""


class Events:
    """Reads a stream as it passes; holds at most one unfinished line of it."""

    __slots__ = ("_inflate", "_line", "_mark", "_skips")

    def __init__(self, mark: bytes, *, compressed: bool = False) -> None:
        """Pick data with `mark` in it, from a stream that may be `compressed` by gzip or deflate."""
        self._mark = mark
        self._line = bytearray()
        self._skips = False
        self._inflate = zlib.decompressobj(_ANY_HEADER) if compressed else None

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the marked data that became whole with this chunk.

        Raises:
            zlib.error: it is not compressed as it should be.
        """
        if self._inflate is None:
            return self._read(chunk)
        found = []
        while chunk:
            found += self._read(self._inflate.decompress(chunk, MAX_LINE))
            chunk = self._inflate.unconsumed_tail
        return found

    def _read(self, text: bytes) -> list[bytes]:
        found = []
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
                    found.append(bytes(self._line[len(_DATA) :]).strip())
                self._line.clear()
        return found
