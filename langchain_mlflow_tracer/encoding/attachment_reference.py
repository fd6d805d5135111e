"""Writes and recognises the references by which MLflow shows an attachment of a trace."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

__all__ = ["SCHEME", "is_reference", "reference"]

SCHEME: Final = "mlflow-attachment://"

# Nothing in it is as the application likes but the type, which has no room for a secret.
_REFERENCE: Final = re.compile(
    rf"{SCHEME}[0-9a-f-]{{36}}\?content_type=[\w.%+-]{{1,200}}&trace_id=tr-[0-9a-f]{{32}}&size=\d+"
)


def reference(attachment_id: str, content_type: str, trace_id: str, size: int) -> str:
    """Return the reference in a span to content that is stored beside the trace (mlflow 3.11 and later)."""
    query = urlencode({"content_type": content_type, "trace_id": trace_id, "size": size})
    return f"{SCHEME}{attachment_id}?{query}"


def is_reference(text: str) -> bool:
    """Whether `text` is a reference and nothing else."""
    return text.startswith(SCHEME) and _REFERENCE.fullmatch(text) is not None
