"""Say where an Azure OpenAI endpoint is and how LangChain's clients reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEFAULT_API_VERSION = "2024-10-21"


@dataclass(frozen=True, slots=True)
class Connection:
    """An endpoint with its key and deployments, real or emulated."""

    endpoint: str
    api_key: str
    deployment: str
    embedding_deployment: str
    api_version: str = DEFAULT_API_VERSION

    def chat(self) -> dict[str, Any]:
        """Return what `AzureChatOpenAI` needs to be told."""
        return {**self._common(), "azure_deployment": self.deployment}

    def embeddings(self) -> dict[str, Any]:
        """Return what `AzureOpenAIEmbeddings` needs to be told."""
        return {
            **self._common(),
            "azure_deployment": self.embedding_deployment,
            # With the check, the client downloads tiktoken's vocabulary before its first request.
            "check_embedding_ctx_length": False,
        }

    def _common(self) -> dict[str, Any]:
        return {"azure_endpoint": self.endpoint, "api_key": self.api_key, "api_version": self.api_version}
