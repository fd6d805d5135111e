"""State the verdicts of Azure's content filters."""

from __future__ import annotations

from typing import Any

GRADED = ("hate", "self_harm", "sexual", "violence")
DETECTED_IN_PROMPTS = ("jailbreak",)
DETECTED_IN_COMPLETIONS = ("protected_material_code", "protected_material_text")


def prompt_verdicts(category: str | None = None) -> dict[str, Any]:
    """Judge a prompt: all safe, or one category filtered."""
    return _verdicts(DETECTED_IN_PROMPTS, category)


def completion_verdicts(category: str | None = None) -> dict[str, Any]:
    """Judge a completion: all safe, or one category filtered."""
    return _verdicts(DETECTED_IN_COMPLETIONS, category)


def _verdicts(detected: tuple[str, ...], category: str | None) -> dict[str, Any]:
    graded = {name: _graded(filtered=name == category) for name in GRADED}
    return graded | {name: {"filtered": name == category, "detected": name == category} for name in detected}


def _graded(*, filtered: bool) -> dict[str, Any]:
    return {"filtered": filtered, "severity": "medium" if filtered else "safe"}
