"""Names what can go wrong, with the blame in the type."""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "ExportError",
    "PermanentExportError",
    "SpoolError",
    "TracerError",
    "TransientExportError",
]


class TracerError(Exception):
    """The root of this package's errors.

    ::

        TracerError
        ├── ConfigurationError        the caller's: an argument or environment variable is wrong
        ├── SpoolError                the disk's: the spool cannot be read or written now
        └── ExportError               the destination's
            ├── TransientExportError      worth trying again, nothing is lost
            └── PermanentExportError      the destination will never take this as it is
    """


class ConfigurationError(TracerError, ValueError):
    """An argument or environment variable is wrong; raised at construction, never later."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        """Say which `argument` had which `value`, and what would be right."""
        super().__init__(argument, value, expected)
        self.argument = argument
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.argument}={self.value!r} is not valid: {self.expected}"


class SpoolError(TracerError):
    """The spool cannot be read or written now.

    `damaged` tells that its file is: it will not become readable by waiting.
    """

    def __init__(self, message: str, *, damaged: bool = False) -> None:
        """Keep the `message` of the disk or of SQLite."""
        super().__init__(message)
        self.damaged = damaged


class ExportError(TracerError):
    """The destination did not take what it was sent."""


class TransientExportError(ExportError):
    """The destination did not take it this time; it may the next.

    `status` is the HTTP status it answered with, None where there was no answer; `retry_after` the wait in
    seconds that it asked for, if it did. `suspect` tells that what was sent may be to blame.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        suspect: bool = False,
    ) -> None:
        """Keep the destination's own `message`, and what it said beside it."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.suspect = suspect


class PermanentExportError(ExportError):
    """The destination will never take this as it is: trying again changes nothing."""
