"""Names the figures that a tracer returns of itself."""

from __future__ import annotations

from typing import Final, TypedDict

__all__ = ["NOTHING", "Stats"]


class Stats(TypedDict):
    """What became of the traces of this process since it started to record; see `MlflowTracer.stats`."""

    recorded: int
    """Traces that ended, or were cut off when the tracer was closed."""
    spooled: int
    """Of these, written to the queue on disk."""
    delivered: int
    """Of these, stored in MLflow, by any sender."""
    waiting: int
    """Pending traces: of these, in the queue on disk and not sent yet."""
    dead_letters: int
    """Rejected traces: of these, refused permanently; see `langchain-mlflow-tracer dead-letters`."""
    dropped: dict[str, int]
    """Lost traces by cause: queue_full, not_encoded and at_close in memory, spool on disk."""
    problems: dict[str, int]
    """Other problems, and how often they happened. Each is logged at most once a minute, except `unknown_run`
    (LangChain reported something of a run that had ended, as after a stream that was not read to its end) and
    `started_twice` (a tracer was passed twice), which are only counted."""
    last_error: str | None
    """Why MLflow does not accept pending traces; None if it does."""
    oldest_waiting_seconds: float | None
    """The age of the oldest pending trace in the queue, of any process."""


NOTHING: Final = Stats(
    recorded=0,
    spooled=0,
    delivered=0,
    waiting=0,
    dead_letters=0,
    dropped={},
    problems={},
    last_error=None,
    oldest_waiting_seconds=None,
)
