"""Names of attributes, tags and metadata that MLflow and OpenTelemetry read.

A name is here if more than one file uses it. A name that one file alone writes stays there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

T = TypeVar("T")

# Attributes of spans (mlflow 3.17.2, `mlflow.tracing.constant.SpanAttributeKey`).
SPAN_TYPE: Final = "mlflow.spanType"
SPAN_INPUTS: Final = "mlflow.spanInputs"
SPAN_OUTPUTS: Final = "mlflow.spanOutputs"
REQUEST_ID: Final = "mlflow.traceRequestId"
LLM_PROVIDER: Final = "mlflow.llm.provider"
LLM_MODEL: Final = "mlflow.llm.model"
CHAT_TOOLS: Final = "mlflow.chat.tools"
CHAT_TOKEN_USAGE: Final = "mlflow.chat.tokenUsage"  # noqa: S105 - no password
LINKED_PROMPTS: Final = "mlflow.linkedPrompts"
"""Also a tag of traces: a list of names and versions, as JSON."""

# Tags and metadata of traces (mlflow 3.17.2, `TraceTagKey` and `TraceMetadataKey`).
TRACE_NAME: Final = "mlflow.traceName"
TRACE_SESSION: Final = "mlflow.trace.session"
TRACE_USER: Final = "mlflow.trace.user"
TRACE_TOKEN_USAGE: Final = "mlflow.trace.tokenUsage"  # noqa: S105 - no password
TRACE_SCHEMA: Final = "mlflow.trace_schema.version"

# What an MLflow server reads from the attributes of a root span to fill in the trace (mlflow 3.15 to 3.17).
TAG_PREFIX: Final = "mlflow.traceTag."
METADATA_PREFIX: Final = "metadata."
SESSION_ID: Final = "session.id"
USER_ID: Final = "user.id"

# Generative AI (OpenTelemetry semantic conventions 1.38).
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"

# HTTP and exceptions (OpenTelemetry semantic conventions 1.38).
HTTP_STATUS: Final = "http.response.status_code"
HTTP_RESEND_COUNT: Final = "http.request.resend_count"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"

# Our own names: no convention has these.
OUTCOME: Final = "lc.outcome"
"""How a run ended, or that it has not ended yet: an attribute of spans, and a tag of traces."""
AZURE_DEPLOYMENT: Final = "azure.deployment"
AZURE_SERVED_MODEL: Final = "azure.served_model"
AZURE_ERROR_CODE: Final = "azure.error.code"

# Fields of MLflow's `TraceInfo` that OTLP does not carry: they travel among the metadata, under these keys.
CLIENT_REQUEST_ID: Final = "trace_info.client_request_id"
REQUEST_PREVIEW: Final = "trace_info.request_preview"
RESPONSE_PREVIEW: Final = "trace_info.response_preview"
STATE: Final = "trace_info.state"
TRACE_INFO_KEYS: Final = (CLIENT_REQUEST_ID, REQUEST_PREVIEW, RESPONSE_PREVIEW, STATE)


def present(values: Mapping[str, T | None]) -> dict[str, T]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
