"""Print a stored trace as a tree: names, types, milliseconds, tokens and cost."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator

import mlflow
from mlflow.entities import Span, Trace

from langchain_mlflow_tracer import MlflowTracer
from store import FLUSH_TIMEOUT, where_to_look

Row = tuple[str, str, str, str, str]
Children = dict[str | None, list[Span]]


def show(tracer: MlflowTracer, *trace_ids: str | None) -> None:
    """Wait for traces (default: the last one) and print them; if they do not arrive, exit with an error."""
    print("\nWaiting until MLflow has stored the trace (about ten seconds for a new database) ...\n")
    if not tracer.flush(timeout=FLUSH_TIMEOUT):
        sys.exit(f"The trace did not arrive within {FLUSH_TIMEOUT:.0f} seconds.")
    for trace_id in trace_ids or (tracer.last_trace_id,):
        trace = mlflow.get_trace(trace_id) if trace_id else None
        if trace is None:
            sys.exit(f"MLflow has no trace {trace_id}.")
        print("\n".join(tree(trace)), end="\n\n")
    print(where_to_look())


def tree(trace: Trace) -> list[str]:
    """Return a trace as a tree: one line for each span, and one line for the trace."""
    children: Children = defaultdict(list)
    for span in sorted(trace.data.spans, key=lambda span: span.start_time_ns):
        children[span.parent_id].append(span)
    rows = [*_rows(children, None, ""), _total(trace)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths) for row in rows]


def _rows(children: Children, parent: str | None, indent: str) -> Iterator[Row]:
    spans = children[parent]
    for span in spans:
        branch, below = (
            ("", "") if parent is None else ("└─ ", "   ") if span is spans[-1] else ("├─ ", "│  ")
        )
        yield _row(span, indent + branch)
        yield from _rows(children, span.span_id, indent + below)


def _row(span: Span, lead: str) -> Row:
    milliseconds = ((span.end_time_ns or span.start_time_ns) - span.start_time_ns) / 1e6
    mark = " ✗" if span.status.status_code == "ERROR" else ""
    usage = _tokens(span.get_attribute("mlflow.chat.tokenUsage"))
    cost = _cost(span.get_attribute("mlflow.llm.cost"))
    return f"{lead}{span.name}{mark}", span.span_type or "", f"{milliseconds:,.1f} ms", usage, cost


def _total(trace: Trace) -> Row:
    info = trace.info
    duration = f"{info.execution_duration or 0:,.1f} ms"
    return f"= {info.trace_id}", info.state, duration, _tokens(info.token_usage), _cost(info.cost)


def _tokens(usage: dict[str, int] | None) -> str:
    return f"{usage['input_tokens']} + {usage['output_tokens']} tokens" if usage else ""


def _cost(cost: dict[str, float] | None) -> str:
    return f"${cost['total_cost']:.6f}" if cost else ""


def _line(row: Row, widths: list[int]) -> str:
    name, kind, *figures = row
    cells = [name.ljust(widths[0]), kind.ljust(widths[1])]
    cells += [figure.rjust(width) for figure, width in zip(figures, widths[2:], strict=True)]
    return "  ".join(cells).rstrip()
