"""Encodes a finished trace as a payload for the spool, and sets the order of the steps."""

from __future__ import annotations

from langchain_mlflow_tracer.core import prompts
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.encoding import history, otlp
from langchain_mlflow_tracer.encoding.attachments import detach, may_hold
from langchain_mlflow_tracer.encoding.masking import mask
from langchain_mlflow_tracer.encoding.payload import join_attachments
from langchain_mlflow_tracer.encoding.redaction import Redactor
from langchain_mlflow_tracer.encoding.scan import TraceScan
from langchain_mlflow_tracer.settings.options import Redact

__all__ = ["Encoder"]


class Encoder:
    """Encodes traces, one at a time; `shortens` is whether a conversation is written once in a trace."""

    def __init__(self, redact: Redact, log: Log, *, shortens: bool) -> None:
        self._redact = redact
        self._redactor = Redactor(redact)
        self._log = log
        self._shortens = shortens

    def encode(self, trace: TraceRecord) -> bytes:
        """Return a trace as the bytes for the disk. It changes the record: do not use it afterwards."""
        _complete(trace)
        scan = TraceScan.of(trace.texts())
        attachments = []
        if may_hold(scan):  # first: a picture is not searched for secrets
            attachments = detach(trace, self._report_too_large)
            scan = TraceScan.of(trace.texts())
        # Before masking: omitted messages need not be searched.
        if self._shortens and trace.size > history.LONG:
            history.shorten(trace)
        return join_attachments(attachments, otlp.encode(mask(trace, self._redactor, scan)))

    def prepared(self, trace: TraceRecord) -> TraceRecord:
        """Return a trace that may leave this process without the spool: its secrets are masked.

        It is called on callers' threads: the redactor of the writer's thread is not shared.
        """
        _complete(trace)
        return mask(trace, Redactor(self._redact))

    def _report_too_large(self, attachment: str) -> None:
        self._log.report(
            "attachment_too_large",
            "attachment dropped (%s): larger than a trace may hold; its text is kept", attachment,
        )  # fmt: skip


def _complete(trace: TraceRecord) -> None:
    """Do what the recorder deferred, so that it takes no time on the caller's thread."""
    for span in trace.spans:
        span.run_deferred()
    prompts.link(trace)
