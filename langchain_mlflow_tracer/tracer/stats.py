"""Names what a tracer tells of itself."""

from __future__ import annotations

from typing import Final, TypedDict

__all__ = ["NOTHING", "Stats"]


class Stats(TypedDict):
    """What became of the traces of this process, since it started to record; see `MlflowTracer.stats`."""

    recorded: int
    """Traces that ended, or were cut off when the tracer was closed."""
    spooled: int
    """Of these, on disk by now."""
    delivered: int
    """Of these, in MLflow by now, whoever delivered them."""
    waiting: int
    """Traces of this process that wait in the spool."""
    dead: int
    """Traces of this process that MLflow refused for ever; see `langchain-mlflow-tracer dead-letters`."""
    dropped: dict[str, int]
    """Traces that were given up, by cause: queue_full, not_encoded and at_close in memory, spool on disk."""
    mishaps: dict[str, int]
    """What went wrong otherwise, and how often: logged, at most once a minute. Only counted are `unknown_run`
    (LangChain told of a run that was over, as of a stream that was left) and `started_twice` (a tracer was
    passed twice)."""
    last_error: str | None
    """Why MLflow does not take what waits, as far as it does not."""
    oldest_waiting_seconds: float | None
    """The age of the oldest trace in the spool, whosever it is."""


NOTHING: Final = Stats(
    recorded=0,
    spooled=0,
    delivered=0,
    waiting=0,
    dead=0,
    dropped={},
    mishaps={},
    last_error=None,
    oldest_waiting_seconds=None,
)
