"""What a forwarder of either kind can do: a thread of this process, or a process of its own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["ForwarderKind"]


class ForwarderKind(Protocol):
    """Empties a spool: a `Forwarder` or a `Supervisor`."""

    @property
    def holds_drain_lock(self) -> bool:
        """Whether this process itself empties the spool now."""

    @property
    def is_ours(self) -> bool:
        """Whether this process, or its child, empties the spool or is about to."""

    @property
    def outlives_process(self) -> bool:
        """Whether pending traces are sent even if this process ends."""

    def start(self) -> None:
        """Start to send."""

    def wake(self) -> None:
        """Check the spool now: something was put."""

    def add_credentials(self) -> None:
        """Use credentials that were not known at the start."""

    def retry_now(self) -> None:
        """Make the next attempt now: the application flushes."""

    def stop(self, timeout: float) -> bool:
        """Stop, and wait at most `timeout` seconds; True if its thread has ended."""
