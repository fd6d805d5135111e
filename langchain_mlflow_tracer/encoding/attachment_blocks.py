"""Knows the blocks of messages that hold pictures, sounds and files, and how MLflow draws them.

A chat is drawn only when every block of every message is of a kind that MLflow's page knows (seen in mlflow
3.17.2), so blocks of other kinds become those by which it draws content of any type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from langchain_mlflow_tracer.encoding.attachment_reference import is_reference

__all__ = ["BASE64_KEYS", "base64_in", "drawable"]

_BINARY: Final = re.compile(r"(?:image|audio|video|application)/[\w.+-]{1,80}", re.IGNORECASE)

# Blocks of LangChain that need not name a type.
_USUAL: Final = {
    "image": "image/png",
    "audio": "audio/wav",
    "video": "video/mp4",
    "file": "application/pdf",
}
# Where base64 stands by itself; under other keys it is a data URI.
BASE64_KEYS: Final = frozenset({"base64", "data", "b64_json", "result"})

_SOUNDS: Final = frozenset({"audio", "input_audio"})
_SOUNDS_DRAWN: Final = ("wav", "mp3")

# A tuple: a type may itself be of a type that no set takes.
# Blocks that are nothing but what they hold; Gemini's and Bedrock's name no type.
_HOLDERS: Final = (
    "image", "image_url", "input_image", "image_generation_call", "audio", "input_audio", "video", "file",
    "input_file", "document", "media", None,
)  # fmt: skip


def base64_in(block: Mapping[str, object], under: str) -> tuple[str, str] | None:
    """Return the key under which a mapping holds base64, and the type of content, if it says so.

    `under` is the key at which the mapping stands.
    """
    declared = _of_openai(block, under) or _of_named_type(block)
    return declared if declared is not None and isinstance(block.get(declared[0]), str) else None


def _of_openai(block: Mapping[str, object], under: str) -> tuple[str, str] | None:
    if block.get("type") == "image_generation_call":  # the Responses API
        return "result", f"image/{block.get('output_format') or 'png'}"
    if "b64_json" in block:  # images
        return "b64_json", "image/png"
    if under in _SOUNDS and "data" in block:  # sounds, in and out
        return "data", _sound(block.get("format"))
    return None


def _of_named_type(block: Mapping[str, object]) -> tuple[str, str] | None:
    """Read LangChain's blocks, as of now (`base64`) and before; Anthropic's sources, Gemini's data."""
    named = block.get("mime_type") or block.get("media_type") or _USUAL.get(str(block.get("type")))
    if isinstance(named, str) and _BINARY.fullmatch(named):
        return "base64" if "base64" in block else "data", named
    return None


def _sound(form: object) -> str:
    return "audio/mpeg" if form == "mp3" else f"audio/{form or 'wav'}"


def drawable(message: dict[str, object]) -> dict[str, object]:
    """Write the blocks of a message that hold references as those that MLflow draws, among its content."""
    content, others = message.get("content"), message.get("content_blocks")
    if isinstance(content, list):
        return {**message, "content": [_drawn(block) for block in content]}
    return _among_content(message, others) if isinstance(others, list) else message


def _among_content(message: dict[str, object], blocks: list[object]) -> dict[str, object]:
    """Move blocks that hold references out of `content_blocks`, which MLflow does not draw."""
    drawn = [_drawn(block) for block in blocks if _held(block) is not None]
    if not drawn:
        return message
    text = message.get("content")
    rest = [block for block in blocks if _held(block) is None]
    moved = {**message, "content": [*([{"type": "text", "text": text}] if text else []), *drawn]}
    return {**moved, "content_blocks": rest} if rest else _without(moved, "content_blocks")


def _without(message: dict[str, object], key: str) -> dict[str, object]:
    return {other: item for other, item in message.items() if other != key}


def _drawn(block: object) -> object:
    """Write a block as a picture, in whose place MLflow draws sounds and files too."""
    held = _held(block)
    if not isinstance(block, dict) or held is None or _is_drawn(block):
        return block
    return {**block, "type": "image_url", "image_url": {"url": held}}


def _is_drawn(block: Mapping[str, object]) -> bool:
    kind = block.get("type")
    inner = block.get("source" if kind == "image" else str(kind))
    if not isinstance(inner, dict):
        return False
    return kind in ("image_url", "image") or (kind == "input_audio" and inner.get("format") in _SOUNDS_DRAWN)


def _held(block: object) -> str | None:
    """Return the reference that a block holds, itself or one level below."""
    if not isinstance(block, dict) or block.get("type") not in _HOLDERS:
        return None
    below = [item for inner in block.values() if isinstance(inner, dict) for item in inner.values()]
    texts = (item for item in (*block.values(), *below) if isinstance(item, str))
    return next((text for text in texts if is_reference(text)), None)
