"""Create the results of Azure's content filters."""

from __future__ import annotations

from typing import Any

GRADED = ("hate", "self_harm", "sexual", "violence")
DETECTED_IN_PROMPTS = ("jailbreak",)
DETECTED_IN_COMPLETIONS = ("protected_material_code", "protected_material_text")


def prompt_verdicts(category: str | None = None) -> dict[str, Any]:
    """Return the results for a prompt: all safe, or one category filtered."""
    return _verdicts(DETECTED_IN_PROMPTS, category)


def completion_verdicts(category: str | None = None) -> dict[str, Any]:
    """Return the results for a completion: all safe, or one category filtered."""
    return _verdicts(DETECTED_IN_COMPLETIONS, category)


def content_filters(prompt: int, completion: int, category: str | None = None) -> list[dict[str, Any]]:
    """Return the results in the format of the Responses API, for texts of so many characters.

    The format is AzureContentFilterForResponsesAPI of Microsoft's specification (OpenAI.v1), as in published
    answers of 2025 and 2026.
    """
    return [
        _judged("prompt", prompt_verdicts(), prompt),
        _judged("completion", completion_verdicts(category), completion, blocked=category is not None),
    ]


def input_filters(prompt: int, category: str) -> list[dict[str, Any]]:
    """Return the results for an input that is rejected."""
    return [_judged("prompt", prompt_verdicts(category), prompt, blocked=True)]


def _judged(
    source: str, verdicts: dict[str, Any], characters: int, *, blocked: bool = False
) -> dict[str, Any]:
    return {
        "blocked": blocked,
        "source_type": source,
        "content_filter_raw": [],
        "content_filter_results": verdicts,
        "content_filter_offsets": {"start_offset": 0, "end_offset": characters, "check_offset": 0},
    }


def _verdicts(detected: tuple[str, ...], category: str | None) -> dict[str, Any]:
    graded = {name: _graded(filtered=name == category) for name in GRADED}
    other = () if category in (None, *GRADED, *detected) else (category,)
    return graded | {
        name: {"filtered": name == category, "detected": name == category} for name in (*detected, *other)
    }


def _graded(*, filtered: bool) -> dict[str, Any]:
    return {"filtered": filtered, "severity": "medium" if filtered else "safe"}
