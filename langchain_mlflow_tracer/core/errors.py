"""The errors of this package. The type shows where the cause is."""

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
        ├── ConfigurationError        caller: an argument or environment variable is wrong
        ├── SpoolError                disk: the spool cannot be read or written now
        └── ExportError               destination: it did not accept a trace
            ├── TransientExportError      another attempt may succeed
            └── PermanentExportError      no attempt will succeed
    """


class ConfigurationError(TracerError, ValueError):
    """An argument or environment variable is wrong; raised at construction, never later."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        """`expected` describes what a valid `value` of `argument` is."""
        super().__init__(argument, value, expected)
        self.argument = argument
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.argument}={self.value!r} is not valid: {self.expected}"


class SpoolError(TracerError):
    """The spool cannot be read or written now.

    `damaged`: its file is damaged, so a later attempt will not succeed either.
    """

    def __init__(self, message: str, *, damaged: bool = False) -> None:
        """Keep the `message` of the disk or of SQLite."""
        super().__init__(message)
        self.damaged = damaged


class ExportError(TracerError):
    """The destination did not accept what was sent."""


class TransientExportError(ExportError):
    """The destination did not accept it now; another attempt may succeed.

    `status` is the HTTP status of the answer, None if there was no answer. `retry_after` is the wait in
    seconds that the destination asked for, None if it asked for none. `suspect`: the content that was sent
    may be the cause.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        suspect: bool = False,
    ) -> None:
        """`message` is the text of the destination's answer."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.suspect = suspect


class PermanentExportError(ExportError):
    """The destination rejected it permanently: another attempt will not succeed."""
