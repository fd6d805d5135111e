"""Knows whether `mlflow.langchain.autolog()` is on."""

from __future__ import annotations

import sys

__all__ = ["is_on"]


def is_on() -> bool:
    """Whether autolog records chains now; False too if MLflow keeps that elsewhere (not in 3.12 to 3.17)."""
    utils = sys.modules.get("mlflow.utils.autologging_utils")
    config: dict[str, object] = getattr(utils, "AUTOLOGGING_INTEGRATIONS", {}).get("langchain") or {}
    # Its entry is empty if mlflow.langchain was only imported.
    return config.get("disable") is False
