"""Embed texts without a model: texts with common words have similar vectors."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct

DIMENSIONS = 256

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    _WORD.findall(
        "a an and are do does for how in is it many much of on the to what when where which who with"
    )
)


def words(text: str) -> list[str]:
    """Return the significant words of a text, with plural and singular treated as equal."""
    folded = (word.casefold() for word in _WORD.findall(text))
    return [word.removesuffix("s") for word in folded if word not in _COMMON]


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Hash each word to one dimension and a sign, and scale the sum to length one."""
    vector = [0.0] * dimensions
    for word in words(text) or [""]:
        index, sign = _place(word, dimensions)
        vector[index] += sign
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def as_base64(vector: list[float]) -> str:
    """Pack a vector as Azure does: little-endian floats of four bytes, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _place(word: str, dimensions: int) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return number // 2 % dimensions, 1.0 if number % 2 else -1.0
