"""Merges the verdicts of content filters on a call, and names the filters that tripped.

The shapes are Azure OpenAI's (API version 2024-10-21): `prompt_filter_results` and, in each choice,
`content_filter_results` of chat completions; `content_filters` of the Responses API.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Final, cast

__all__ = ["Verdicts", "mappings"]

_SEVERITIES: Final = ("safe", "low", "medium", "high")

MAX_PLACES: Final = 128
"""Prompts, or choices, whose verdicts are kept: Azure gives at most 128 choices."""

MAX_CATEGORIES: Final = 64
"""Filters kept of one prompt or choice: Azure has about a dozen, a broken server may send any number."""

_Place = dict[str, object]


class Verdicts:
    """The verdicts on a call's prompts and choices so far; of two verdicts the graver one is kept.

    One thread adds, others may read meanwhile: they copy in one step before they iterate.
    """

    __slots__ = ("_choices", "_prompts", "_reasons")

    def __init__(self) -> None:
        self._prompts: dict[int, _Place] = {}
        self._choices: dict[int, _Place] = {}
        self._reasons: dict[int, str] = {}

    def add(self, body: Mapping[str, object]) -> None:
        """Take the verdicts in a completion, a chunk of one, an event of a response, or an error."""
        # Events of the Responses API have the response inside.
        response = body.get("response")
        if isinstance(response, dict):
            body = response
        for prompt in mappings(body.get("prompt_filter_results")):
            _merge(self._prompts, prompt.get("prompt_index"), prompt.get("content_filter_results"))
        for choice in mappings(body.get("choices")):
            index = choice.get("index")
            _merge(self._choices, index, choice.get("content_filter_results"))
            # A choice that a filter cut off counts as blocked, also if it has no verdicts.
            if isinstance(index, int) and choice.get("finish_reason") == "content_filter":
                self._reasons[index] = "content_filter"
        for filtered in mappings(body.get("content_filters")):
            places = self._prompts if filtered.get("source_type") == "prompt" else self._choices
            _merge(places, 0, filtered.get("content_filter_results"))

    def refuse(self, results: object) -> None:
        """Take the verdicts in the error by which a prompt was refused."""
        _merge(self._prompts, 0, results)

    @property
    def is_blocked(self) -> bool:
        """Whether a filter cut a choice off."""
        return bool(self._reasons)

    def attributes(self) -> dict[str, object]:
        """Return which filters tripped, and on what: as text, which MLflow's search finds by LIKE and RLIKE.

        It finds no text by `=`, and no list by RLIKE (mlflow 3.17.2, on an SQL store).
        """
        tripped = {"prompt": _tripped(self._prompts), "completion": _tripped(self._choices)}
        names = sorted(set().union(*tripped.values()))
        if not names:
            return {}
        return {
            "azure.content_filter.tripped": ", ".join(names),
            "azure.content_filter.source": ", ".join(place for place, filters in tripped.items() if filters),
        }

    def fill(self, outputs: MutableMapping[str, object]) -> None:
        """Add to a recorded answer, an OpenAI chat completion, the filter results that it lacks."""
        for choice in mappings(outputs.get("choices")):
            index = cast("int", choice.get("index"))
            _add_missing(choice, "content_filter_results", dict(self._choices.get(index, {})))
            _add_missing(choice, "finish_reason", self._reasons.get(index))
        prompts = [
            {"prompt_index": index, "content_filter_results": dict(place)}
            for index, place in sorted(self._prompts.items())
        ]
        _add_missing(outputs, "prompt_filter_results", prompts)


def _add_missing(target: MutableMapping[str, object], name: str, value: object) -> None:
    if value and not target.get(name):
        target[name] = value


def mappings(value: object) -> list[dict[str, object]]:
    """Return the mappings in a list; no mappings if it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _merge(places: dict[int, _Place], index: object, results: object) -> None:
    if not isinstance(index, int) or not isinstance(results, dict) or not results:
        return
    if index in places or len(places) < MAX_PLACES:
        _keep_gravest(places.setdefault(index, {}), results)


def _keep_gravest(place: _Place, results: Mapping[str, object]) -> None:
    for name, verdict in results.items():
        if name not in place:
            if len(place) < MAX_CATEGORIES:
                place[name] = verdict
        # Every chunk of a stream has all verdicts again: to compare them is cheaper than to rank them.
        elif place[name] != verdict:
            place[name] = max(place[name], verdict, key=_gravity)


def _gravity(verdict: object) -> tuple[bool, bool, int]:
    if not isinstance(verdict, dict):
        return False, False, -1
    # In this order: a filter that blocked is graver than one that only detected something, then the severity.
    severity = verdict.get("severity")
    rank = _SEVERITIES.index(severity) if severity in _SEVERITIES else -1
    return verdict.get("filtered") is True, verdict.get("detected") is True, rank


def _tripped(places: Mapping[int, _Place]) -> set[str]:
    # Lists, not views: another thread may add a verdict meanwhile.
    verdicts = (item for place in list(places.values()) for item in list(place.items()))
    return {name for name, verdict in verdicts if _gravity(verdict)[0]}
