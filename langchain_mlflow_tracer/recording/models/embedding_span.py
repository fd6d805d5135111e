"""Records the embedding calls that the HTTP client reports, as spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from langchain_mlflow_tracer.core.guard import Guard
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord
from langchain_mlflow_tracer.recording.endings import Failure
from langchain_mlflow_tracer.recording.failure import failure, refusal
from langchain_mlflow_tracer.recording.models.attempts import Attempts
from langchain_mlflow_tracer.recording.models.embeddings import EmbeddingAnswer, EmbeddingRequest

__all__ = ["EmbeddingSpans"]

Finish = Callable[[SpanRecord], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpans:
    """The embedding calls of one tracer. Its functions are the handler's and the recorder's, by run id."""

    guard: Guard
    log: Log
    start_inside: Callable[[UUID, Sequence[UUID]], SpanRecord | None]
    """Starts a run below the innermost of some others."""
    copy: Callable[[SpanRecord, str, object], None]
    """Copies a value into the inputs or outputs of a span, where content is captured."""
    resume_run: Callable[[int], bool]
    add_event: Callable[[int, str, dict[str, object]], None]
    end_run: Callable[[int, Finish], None]
    fail_run: Callable[[int, Failure, Finish], None]
    is_run_open: Callable[[int], bool]
    with_text: bool

    def start(
        self,
        request: EmbeddingRequest,
        run_id: UUID,
        parent_run_ids: Sequence[UUID],
        retry: dict[str, object] | None,
    ) -> None:
        """Start a call below the innermost of the runs that it is inside of, or try a failed one again."""
        with self.guard:
            if retry is None or not self.resume_run(run_id.int):
                span = self.start_inside(run_id, parent_run_ids)
                if span is not None:
                    span.attributes.update(request.attributes)
                    self.copy(span, "inputs", request.inputs)
            if retry is not None:
                self.add_event(run_id.int, "retry", dict(retry))

    def end(self, answer: EmbeddingAnswer, attempts: Attempts, run_id: UUID) -> None:
        """End a call."""
        with self.guard:

            def finish(span: SpanRecord) -> None:
                span.attributes.update(attempts.attributes | answer.attributes)
                self.copy(span, "outputs", answer.outputs)

            self.end_run(run_id.int, finish)

    def fail(self, error: BaseException | None, attempts: Attempts, run_id: UUID) -> None:
        """Fail a call: by an exception, or by an answer that is an error."""
        with self.guard:
            failed = (
                refusal(attempts.attributes) if error is None else failure(error, with_text=self.with_text)
            )
            self.fail_run(run_id.int, failed, lambda span: span.attributes.update(attempts.attributes))

    def is_open(self, run_id: UUID) -> bool:
        """Whether a run has not ended."""
        return self.is_run_open(run_id.int)
