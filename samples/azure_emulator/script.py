"""Select the reply: the first rule that returns a reply is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from azure_emulator.reply import Answer, Failure, Reply
from azure_emulator.request import Request

Rule = Callable[[Request], Reply | None]


@dataclass(frozen=True, slots=True)
class Script:
    """The replies of the emulator, as a pure function of the request."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, *rules: Rule | Reply | str) -> Self:
        """Create a script of rules; a text or a reply becomes a rule that always applies."""
        return cls(tuple(rule if callable(rule) else always(rule) for rule in rules))

    def reply(self, request: Request) -> Reply:
        """Return the reply of the first rule that has one, or an empty answer."""
        replies = (rule(request) for rule in self.rules)
        return next((reply for reply in replies if reply is not None), Answer())


def always(reply: Reply | str) -> Rule:
    """Return the same reply to every request."""
    given = _reply(reply)
    return lambda _: given


def when(applies: Callable[[Request], bool], reply: Reply | str) -> Rule:
    """Return a reply to the requests for which a predicate is true."""
    given = _reply(reply)
    return lambda request: given if applies(request) else None


def in_turn(*replies: Reply | str) -> Rule:
    """Return the first reply to a new conversation, the second after one assistant message, and so on."""
    given = [_reply(reply) for reply in replies]
    return lambda request: given[request.turn] if request.turn < len(given) else None


def failing(times: int, failure: Failure) -> Rule:
    """Fail the first `times` times that a request is received, then leave it once to later rules; repeat."""
    return lambda request: failure if request.earlier % (times + 1) < times else None


def _reply(given: Reply | str) -> Reply:
    return Answer(given) if isinstance(given, str) else given
