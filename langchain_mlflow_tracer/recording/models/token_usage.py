"""Reads the tokens of a model call, and decides whether MLflow's list price is right for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Usage"]

_LISTED_TIERS: Final = (None, "", "auto", "default", "standard")
"""Service tiers that cost the list price; others cost more or less (Azure OpenAI, November 2026)."""

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

    `tokens` has MLflow's names, and only counts that were reported. `details` are further attributes. An
    answer from LangChain's cache consumed no tokens.
    """

    tokens: dict[str, int] | None = None
    details: dict[str, int] = field(default_factory=dict)
    is_from_cache: bool = False

    @classmethod
    def of(cls, message: Mapping[str, object] | None, whole: object) -> Usage:
        """Read the usage that LangChain reports on a message, or else the usage of the `whole` call.

        With several generations each message carries the usage of the whole call (langchain-openai 1.7).
        """
        if message:
            return cls._of_message(message)
        if not isinstance(whole, Mapping):
            return cls()
        return cls(_tokens(whole.get("prompt_tokens"), whole.get("completion_tokens"), whole))

    @classmethod
    def _of_message(cls, usage: Mapping[str, object]) -> Usage:
        if usage.get("total_cost") == 0:  # so LangChain marks answers from its cache (core 1.7)
            return cls(is_from_cache=True)
        tokens = _tokens(
            usage.get("input_tokens"), usage.get("output_tokens"), usage,
            cache_read_input_tokens=_detail(usage, "input_token_details", "cache_read") or None,
            cache_creation_input_tokens=_detail(usage, "input_token_details", "cache_creation") or None,
        )  # fmt: skip
        # Counts of zero are left out: providers report them for kinds that the model does not have.
        details = {name: _detail(usage, side, kind) for name, (side, kind) in _DETAILS.items()}
        return cls(tokens, {name: count for name, count in details.items() if count})

    def priced_model(self, model: object, tier: object, deployment: object) -> object:
        """Return the model's name, by which MLflow looks up the price.

        Where the list price would be wrong, the name has the reason in brackets, so that MLflow finds no
        price: also where `model` is the name of the Azure deployment, which may serve another model.
        """
        if not isinstance(model, str):
            return None
        # MLflow takes any name with a list price for that model: a wrong price is worse than none.
        if model == deployment:
            return f"{model} (deployment)"
        if any(key in self.details for key in _AUDIO):
            return f"{model} (with audio)"
        return model if tier in _LISTED_TIERS else f"{model} ({tier} tier)"


def _detail(usage: Mapping[str, object], side: str, kind: str) -> int | None:
    """Count a kind of tokens; langchain-openai puts the tier before the kind where a tier is priced (1.7)."""
    details = usage.get(side)
    for name, count in details.items() if isinstance(details, Mapping) else ():
        if (name == kind or name.endswith(f"_{kind}")) and isinstance(count, int):
            return count
    return None


def _tokens(
    sent: object, received: object, usage: Mapping[str, object], **cached: int | None
) -> dict[str, int] | None:
    total = usage.get("total_tokens")
    if total is None and isinstance(sent, int) and isinstance(received, int):
        total = sent + received
    counts = {"input_tokens": sent, "output_tokens": received, "total_tokens": total, **cached}
    return {name: count for name, count in counts.items() if isinstance(count, int)} or None
