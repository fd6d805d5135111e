"""Reads what a model call consumed, and whether MLflow's price list holds for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Usage"]

_LISTED_TIERS: Final = (None, "", "auto", "default", "standard")
"""Service tiers for which a list price holds; others cost more or less (Azure OpenAI, November 2026)."""

_DETAILS: Final = {
    "gen_ai.usage.cache_read.input_tokens": ("input_token_details", "cache_read"),
    "gen_ai.usage.audio.input_tokens": ("input_token_details", "audio"),
    "gen_ai.usage.reasoning.output_tokens": ("output_token_details", "reasoning"),
    "gen_ai.usage.audio.output_tokens": ("output_token_details", "audio"),
}
_AUDIO: Final = ("gen_ai.usage.audio.input_tokens", "gen_ai.usage.audio.output_tokens")


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a model call.

    `tokens` are under MLflow's names; what was not reported is not there. `details` are attributes for people
    to read. An answer that came from LangChain's cache consumed nothing.
    """

    tokens: dict[str, int] | None = None
    details: dict[str, int] = field(default_factory=dict)
    is_from_cache: bool = False

    @classmethod
    def of(cls, message: Mapping[str, object] | None, reported: object) -> Usage:
        """Read what LangChain reports: on a message, or else of the whole call.

        With several generations each message carries the usage of the whole call (langchain-openai 1.7).
        """
        if message:
            return cls._of_message(message)
        if not isinstance(reported, Mapping) or not reported:
            return cls()
        return cls(
            _tokens(
                reported.get("prompt_tokens"), reported.get("completion_tokens"), reported.get("total_tokens")
            )
        )

    @classmethod
    def _of_message(cls, reported: Mapping[str, object]) -> Usage:
        if reported.get("total_cost") == 0:  # LangChain marks so what it took from its cache (core 1.7)
            return cls(is_from_cache=True)
        found = {key: _detail(reported, side, name) for key, (side, name) in _DETAILS.items()}
        tokens = _tokens(
            reported.get("input_tokens"), reported.get("output_tokens"), reported.get("total_tokens"),
            _detail(reported, "input_token_details", "cache_read"),
            _detail(reported, "input_token_details", "cache_creation"),
        )  # fmt: skip
        return cls(tokens, {key: count for key, count in found.items() if count})

    def priced_model(self, model: object, tier: object, deployment: object) -> object:
        """Return the model's name for MLflow, which looks up its price by it.

        Where the list price would be wrong, the name says why, and MLflow finds none: also where `model` is
        the name of the Azure deployment, which may be that of another model.
        """
        if not isinstance(model, str):
            return None
        if model == deployment:
            return f"{model} (deployment)"
        if any(key in self.details for key in _AUDIO):
            return f"{model} (with audio)"
        return model if tier in _LISTED_TIERS else f"{model} ({tier} tier)"


def _detail(reported: Mapping[str, object], side: str, name: str) -> int | None:
    """A kind of tokens; langchain-openai puts the tier before the name of those it prices (1.7)."""
    details = reported.get(side)
    for key, count in details.items() if isinstance(details, Mapping) else ():
        if (key == name or key.endswith(f"_{name}")) and isinstance(count, int):
            return count
    return None


def _tokens(
    sent: object, received: object, total: object, cache_read: object = None, cache_creation: object = None
) -> dict[str, int] | None:
    if total is None and isinstance(sent, int) and isinstance(received, int):
        total = sent + received
    named = {
        "input_tokens": sent,
        "output_tokens": received,
        "total_tokens": total,
        "cache_read_input_tokens": cache_read or None,
        "cache_creation_input_tokens": cache_creation or None,
    }
    return {key: value for key, value in named.items() if isinstance(value, int)} or None
