"""Scenarios of a server that fails, all the time or for some seconds, in each way of servers and networks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.outage.trial import Application, Scenario, Trial, wait_until
from tests.support.application import POISON
from tests.support.proxy import (
    BLACK_HOLE,
    HANGING,
    HEALTHY,
    REFUSING,
    RESETTING,
    RESPONSE_LOST,
    UNTRUSTED,
    Fault,
    answers,
    refuses_content,
    slow,
)

__all__ = ["SCENARIOS"]

COUNT = 200
"""Number of traces in each scenario."""

RECOVERY_PROMISE = 10.0
"""Seconds after the end of an outage in which all traces must arrive."""

RECOVERY_WATCHED = 75.0
"""Seconds to wait for it: more than the longest wait between two attempts."""

FIRST_DELIVERY = 30.0
"""Seconds in which an application must have started, or must have sent its first trace."""

STILL_BUSY = 4.0
"""Seconds after an outage in which the application continues to run invokes."""

RETRY_AFTER = 2
"""Seconds that a busy server asks clients to wait."""


@dataclass(frozen=True)
class Way:
    """A kind of fault, and what it needs."""

    name: str
    fault: Fault
    quick: bool = False
    tls: bool = False
    named: bool = False


WAYS = [
    Way("refused", REFUSING, quick=True),
    Way("hangs", HANGING),
    Way("black-hole", BLACK_HOLE),
    Way("500", answers(500)),
    Way("503", answers(503, RETRY_AFTER)),
    Way("429", answers(429, RETRY_AFTER)),
    Way("401", answers(401)),
    Way("413", answers(413)),
    Way("reset", RESETTING),
    Way("slow", slow(5)),
    Way("tls", UNTRUSTED, tls=True),
    Way("no-name", HEALTHY, named=True),
]


def all_along(trial: Trial, fault: Fault) -> None:
    """The application never meets a healthy server; the next one sends its traces."""
    trial.fail(fault)
    application = trial.run(COUNT)
    trial.row.say(f"{trial.delivered(application.ids())} now")
    trial.hold_log(application)
    trial.deliver_the_rest(application.ids())
    trial.hold_delivered(application.ids())
    trial.hold_strangers()
    trial.hold_latency(fault)


def for_a_while(trial: Trial, fault: Fault, seconds: float, when: Literal["start", "life"]) -> None:
    """The server fails for some seconds; then all traces arrive soon, without a new process."""
    began: Callable[[Application], object] = Application.invokes
    if when == "start":
        trial.fail(fault)
    else:
        trial.heal()
        began = lambda application: trial.delivered(application.ids())  # noqa: E731 - the other of two
    application = trial.start(COUNT, pace=(seconds + STILL_BUSY) / COUNT, end="wait")
    wait_until(lambda: began(application), FIRST_DELIVERY)
    trial.fail(fault)
    time.sleep(seconds)  # the duration of the outage
    hold_recovery(trial, application)


def hold_recovery(trial: Trial, application: Application) -> None:
    """Let the server recover, and measure the time until all traces have arrived."""
    trial.heal()
    healed = time.monotonic()
    wait_until(lambda: len(ids := application.ids()) >= COUNT and not trial.lost(ids), RECOVERY_WATCHED)
    took = time.monotonic() - healed
    seconds = application.end()
    trial.hold_results(application, COUNT)
    trial.hold_exit(seconds, application)
    trial.hold_log(application)
    trial.hold_delivered(application.ids())
    trial.hold_strangers()
    trial.row.say(f"{took:.1f} s after recovery")
    trial.row.hold(took <= RECOVERY_PROMISE, f"all within {RECOVERY_PROMISE:g} s of recovery")


def refused_for_ever(trial: Trial) -> None:
    """The server rejects one trace by its content; only this one becomes a dead letter, with the reason."""
    trial.fail(refuses_content(POISON.encode()))
    application = trial.start(COUNT, poison=COUNT // 2, end="wait")
    wait_until(lambda: trial.delivered(application.ids()) >= COUNT - 1, RECOVERY_WATCHED)
    wait_until(trial.dead_letters, RECOVERY_WATCHED)
    seconds = application.end()
    trial.hold_results(application, COUNT)
    trial.hold_exit(seconds, application)
    trial.hold_log(application)
    dead = trial.dead_letters()
    guilty = {application.invokes()[COUNT // 2].id}
    trial.hold_delivered(application.ids() - guilty)
    trial.row.say(f"{len(dead)} in dead letters")
    trial.row.hold(set(dead) == guilty, "the guilty trace, and no other, in dead letters")
    trial.row.hold(all("400" in reason for reason in dead.values()), "its reason")


def _scenarios(way: Way) -> list[Scenario]:
    of_its_kind = functools.partial(Scenario, tls=way.tls, named=way.named)
    return [
        of_its_kind(way.name, functools.partial(all_along, fault=way.fault), quick=way.quick),
        *(
            of_its_kind(
                f"{way.name}-{seconds}s-{when}",
                functools.partial(for_a_while, fault=way.fault, seconds=seconds, when=when),
                quick=way.name == "refused" and seconds == 12 and when == "start",  # noqa: PLR2004 - the shorter
                alone=False,
            )
            for seconds in (12, 20)
            for when in ("start", "life")
        ),
    ]


SCENARIOS = [
    *(scenario for way in WAYS for scenario in _scenarios(way)),
    Scenario(
        "response-lost",
        functools.partial(for_a_while, fault=RESPONSE_LOST, seconds=6, when="start"),
        alone=False,
        quick=True,
    ),
    Scenario("one-refused-for-ever", refused_for_ever, quick=True),
]
