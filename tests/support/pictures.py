"""Makes pictures and other content to send to models, and reads from MLflow what was stored of them."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from typing import Any

import httpx
from mlflow.entities import Trace
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracing.attachments import Attachment

__all__ = ["PDF", "as_data_uri", "as_text", "picture", "references", "stored_content"]

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"


def picture(side: int = 16, seed: int = 1) -> bytes:
    """Return a PNG of coloured noise, which does not compress: three bytes a point."""
    noise = random.Random(seed)  # noqa: S311 - no secret
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def as_text(content: bytes) -> str:
    """Return content in base64."""
    return base64.b64encode(content).decode()


def as_data_uri(content: bytes, kind: str = "image/png") -> str:
    """Return content as a data URI."""
    return f"data:{kind};base64,{as_text(content)}"


def references(value: object) -> list[dict[str, Any]]:
    """Return every reference in plain data, as MLflow's own parser reads it."""
    if isinstance(value, str):
        read = Attachment.parse_ref(value)
        return [] if read is None else [dict(read)]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for item in items for one in references(item)]


def stored_content(uri: str, trace: Trace, attachment_id: str) -> bytes:
    """Return an attachment as a server gives it to a browser, or a store to MLflow's own client."""
    if uri.startswith("http"):
        answer = httpx.get(
            f"{uri}/ajax-api/2.0/mlflow/get-trace-artifact",
            params={"request_id": trace.info.trace_id, "path": attachment_id},
        )
        return answer.raise_for_status().content
    repository: Any = get_artifact_repository(trace.info.tags["mlflow.artifactLocation"])
    content: bytes = repository.download_trace_attachment(attachment_id)
    return content
