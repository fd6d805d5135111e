"""Describe an Azure OpenAI endpoint and the arguments for LangChain's clients."""

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
        """Return the arguments for `AzureChatOpenAI`."""
        return {**self._common(), "azure_deployment": self.deployment}

    def embeddings(self) -> dict[str, Any]:
        """Return the arguments for `AzureOpenAIEmbeddings`."""
        return {
            **self._common(),
            "azure_deployment": self.embedding_deployment,
            # With this check, the client downloads tiktoken's vocabulary before its first request.
            "check_embedding_ctx_length": False,
        }

    def _common(self) -> dict[str, Any]:
        return {"azure_endpoint": self.endpoint, "api_key": self.api_key, "api_version": self.api_version}
