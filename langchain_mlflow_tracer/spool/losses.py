"""Counts the items that were deleted before they were sent, by producer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from langchain_mlflow_tracer.spool.database import Execute, marks

__all__ = ["ADD", "delete"]

_ADD_UP: Final = " ON CONFLICT (producer) DO UPDATE SET count = count + excluded.count"

ADD: Final = f"INSERT INTO losses VALUES (?, ?){_ADD_UP}"
"""Counts so many more items of a producer as lost."""


def delete(execute: Execute, table: str, ids: Sequence[int]) -> None:
    """Delete rows, and count them as lost."""
    where = f"FROM {table} WHERE id IN ({marks(ids)})"
    execute(f"INSERT INTO losses SELECT producer, count(*) {where} GROUP BY producer{_ADD_UP}", ids)
    execute(f"DELETE {where}", ids)
