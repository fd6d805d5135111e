"""Control the emulator by directives in the last user message: `[[429 x2]]`, `[[slow 2]]`, `[[loop 40]]`.

| directive                         | effect                                                                 |
|-----------------------------------|------------------------------------------------------------------------|
| `[[401]]`, `[[500]]`, `[[503]]`   | always this status; `[[500 x2]]`: twice, then the answer               |
| `[[429 x2]]`, `[[429 after 3]]`   | status 429 twice; status 429 with `retry-after` of three seconds       |
| `[[filter:prompt]]`               | the prompt is rejected; `[[filter:prompt hate]]` sets the category     |
| `[[filter:completion]]`           | the answer is cut in the middle; a category can be set, too            |
| `[[slow 2]]`, `[[pace 0.1]]`      | seconds before the first byte; seconds between the chunks of a stream  |
| `[[hang]]`, `[[hang 3]]`          | no more data on an open connection, at once or after three tokens      |
| `[[break]]`, `[[break 3]]`        | the connection is closed, at once or after three tokens                |
| `[[tokens 1000]]`                 | an answer of a thousand tokens                                         |
| `[[reasoning 64]]`                | reasoning tokens in the usage; a response contains a summary, too      |
| `[[audio 7]]`, `[[audio 7 3]]`    | audio tokens in the usage of a chat: input and output (default: equal) |
| `[[refuse]]`                      | the model refuses; `[[refuse No.]]` sets the text                      |
| `[[call name {"a": 1}]]`          | a call of this tool; several directives are parallel calls             |
| `[[loop 40]]`                     | calls of the first two tools in turn, until there are forty results    |
| `[[n]]`                           | each of the `n` answers of a chat contains its number                  |

They work for chat completions and responses. For embeddings, the first text can contain the directives for
statuses, `filter:prompt`, `slow`, `hang` and `break`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from itertools import cycle, islice
from typing import Literal

from azure_emulator.answers import PLAIN_RULES, call_of
from azure_emulator.failures import (
    SHORTLY,
    broken_service,
    input_filtered,
    prompt_filtered,
    rate_limited,
    wrong_key,
)
from azure_emulator.reply import Answer, Failure, Fault, Reply, ToolCall
from azure_emulator.request import Request
from azure_emulator.script import Script, failing

Directive = Callable[[Request, Answer, str], Reply]

_FILLER = ("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog.")
_LOOPED_TOOLS = 2
_REFUSAL = "I'm sorry, but I can't help with that."


def directed(request: Request) -> Reply:
    """Create the default answer and apply each directive to it; after a failure, stop."""
    reply = Script(PLAIN_RULES).reply(request)
    for name, argument in request.directives:
        if isinstance(reply, Answer):
            reply = _directive(name)(request, reply, argument)
    return reply


def _directive(name: str) -> Directive:
    return _status(int(name)) if name.isdecimal() else _DIRECTIVES.get(name, _unknown)


def _status(status: int) -> Directive:
    def fail(request: Request, answer: Answer, argument: str) -> Reply:
        failure = _failure(status, argument, request.operation)
        times = re.search(r"x(\d+)", argument)
        return (failing(int(times[1]), failure)(request) or answer) if times else failure

    return fail


def _failure(status: int, argument: str, operation: str) -> Failure:
    after = re.search(r"after ([\d.]+)", argument)
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return wrong_key()
        case HTTPStatus.TOO_MANY_REQUESTS:
            return rate_limited(float(after[1]) if after else SHORTLY, operation)
        case _:
            return broken_service(status)


def _filter_prompt(request: Request, _: Answer, argument: str) -> Reply:
    category = argument or "violence"
    if request.operation == "responses":
        return input_filtered(request.characters, category)
    return prompt_filtered(category)


def _filter_completion(_: Request, answer: Answer, argument: str) -> Reply:
    return replace(answer, filtered=argument or "violence")


def _slow(_: Request, answer: Answer, argument: str) -> Reply:
    return replace(answer, delay=float(argument))


def _pace(_: Request, answer: Answer, argument: str) -> Reply:
    return replace(answer, pace=float(argument))


def _fault(kind: Literal["hang", "break"]) -> Directive:
    return lambda _, answer, argument: replace(answer, fault=Fault(kind, int(argument or 0)))


def _tokens(_: Request, answer: Answer, argument: str) -> Reply:
    return replace(answer, text=" ".join(islice(cycle(_FILLER), int(argument))), tool_calls=())


def _reasoning(request: Request, answer: Answer, argument: str) -> Reply:
    thought = f"**Reading the question**\n\nThe user says: {request.question}"
    return replace(answer, reasoning_tokens=int(argument), reasoning=(thought,))


def _audio(_: Request, answer: Answer, argument: str) -> Reply:
    heard, __, spoken = argument.partition(" ")
    return replace(answer, audio_tokens=(int(heard), int(spoken or heard)))


def _refuse(_: Request, answer: Answer, argument: str) -> Reply:
    return replace(answer, text="", tool_calls=(), refusal=argument or _REFUSAL)


def _call(request: Request, answer: Answer, argument: str) -> Reply:
    if request.tool_results:
        return answer
    name, _, arguments = argument.partition(" ")
    return replace(answer, text="", tool_calls=(*answer.tool_calls, ToolCall(name, arguments or "{}")))


def _loop(request: Request, _: Answer, argument: str) -> Reply:
    done = len(request.tool_results)
    tools = request.tools[:_LOOPED_TOOLS]
    if done >= int(argument) or not tools:
        return Answer(f"Done after {done} tool results.")
    return Answer(tool_calls=(call_of(tools[done % len(tools)], f"step {done + 1}"),))


def _numbered(request: Request, answer: Answer, _: str) -> Reply:
    first, *others = (f"This is answer {i} of {request.choices}." for i in range(1, request.choices + 1))
    return replace(answer, text=first, alternatives=tuple(others))


def _unknown(_: Request, answer: Answer, __: str) -> Reply:
    return answer


_DIRECTIVES: dict[str, Directive] = {
    "filter:prompt": _filter_prompt,
    "filter:completion": _filter_completion,
    "slow": _slow,
    "pace": _pace,
    "hang": _fault("hang"),
    "break": _fault("break"),
    "tokens": _tokens,
    "reasoning": _reasoning,
    "audio": _audio,
    "refuse": _refuse,
    "call": _call,
    "loop": _loop,
    "n": _numbered,
}

DEFAULT_SCRIPT = Script((directed,))
