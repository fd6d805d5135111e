"""Lists the values that settings may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

__all__ = ["FALSE", "MIB", "PREFIX", "TRUE", "Capture", "Durability", "Forwarding", "History", "Redact"]

PREFIX: Final = "LANGCHAIN_MLFLOW_TRACER"
"""Every setting has an environment variable `LANGCHAIN_MLFLOW_TRACER_<NAME>`."""

TRUE: Final = frozenset({"1", "true", "yes", "on"})
FALSE: Final = frozenset({"0", "false", "no", "off", ""})

MIB: Final = 1024 * 1024
"""Bytes of a mebibyte: the least that a queue may hold, so that a usual trace fits in."""

Capture: TypeAlias = Literal["content", "metadata"]
"""`content`: everything. `metadata`: names, times, models, tokens and outcomes, but no inputs, outputs,
messages, documents, tool arguments or error texts."""

Durability: TypeAlias = Literal["background", "sync"]
"""`background`: a writer thread commits finished traces to the spool, within milliseconds.
`sync`: the thread that ends the root does it, before the chain returns."""

Forwarding: TypeAlias = Literal["auto", "thread", "process", "none"]
"""What sends the traces in the spool: a thread of this process, a separate process, or nothing in this
application (a sidecar does it). `auto`: a separate process, whose CPU and memory are not the application's; a
thread where no process can be started."""

History: TypeAlias = Literal["once", "full"]
"""`once`: each message is stored once in a trace; where it is repeated, a note names the span that has it.
`full`: every model call and every graph node keeps all of its messages."""

Redact: TypeAlias = bool | Callable[[str], str]
"""True: the built-in patterns. False: no masking. A function from string to string: applied after the
built-in patterns."""
