"""Decide what is answered: ordered rules, of which the first that has a reply wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from azure_emulator.reply import Answer, Failure, Reply
from azure_emulator.request import Request

Rule = Callable[[Request], Reply | None]


@dataclass(frozen=True, slots=True)
class Script:
    """What the emulator answers, as a pure function of the request."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, *rules: Rule | Reply | str) -> Self:
        """Make a script of rules; a plain text or reply is a rule that always holds."""
        return cls(tuple(rule if callable(rule) else always(rule) for rule in rules))

    def reply(self, request: Request) -> Reply:
        """Return the first reply that a rule has, or an empty answer."""
        replies = (rule(request) for rule in self.rules)
        return next((reply for reply in replies if reply is not None), Answer())


def always(reply: Reply | str) -> Rule:
    """Give the same reply to everything."""
    given = _reply(reply)
    return lambda _: given


def when(applies: Callable[[Request], bool], reply: Reply | str) -> Rule:
    """Give a reply to the requests that a predicate picks."""
    given = _reply(reply)
    return lambda request: given if applies(request) else None


def in_turn(*replies: Reply | str) -> Rule:
    """Give the first reply to a fresh conversation, the next once the assistant has spoken, and so on."""
    given = [_reply(reply) for reply in replies]
    return lambda request: given[request.turn] if request.turn < len(given) else None


def failing(times: int, failure: Failure) -> Rule:
    """Fail the first times that a request arrives, then leave it to the rules below, then begin anew."""
    return lambda request: failure if request.earlier % (times + 1) < times else None


def _reply(given: Reply | str) -> Reply:
    return Answer(given) if isinstance(given, str) else given
