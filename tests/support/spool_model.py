"""Says with plain lists what a spool should hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from langchain_mlflow_tracer.spool.rows import Failed, Item, Lease

__all__ = ["Dead", "Model", "Running", "Waiting"]


@dataclass(eq=False)
class Waiting:
    """An item that waits; another object when it was put again, or is in another file."""

    item: Item
    created: float


@dataclass
class Running:
    """An item in the making; `version` counts how often it was put, `shown` which of them was seen."""

    item: Item
    version: int = 1
    shown: int = 0


@dataclass
class Dead:
    """An item that was rejected permanently; `id` is its id while it was pending."""

    item: Item
    created: float
    died: float
    id: int
    reason: str


@dataclass
class Model:
    """What a spool holds, the oldest first."""

    waiting: list[Waiting] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    dead: list[Dead] = field(default_factory=list)
    failures: dict[str, Failed] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)

    # Putting.

    def put(self, items: Iterable[Item], now: float) -> None:
        for item in items:
            self.waiting = [one for one in self.waiting if one.item.key != item.key]
            self.waiting.append(Waiting(item, now))
            self.running.pop(item.key, None)

    def evict(self, count: int) -> list[Item]:
        gone, self.waiting = self.waiting[:count], self.waiting[count:]
        self.lost.update(one.item.producer for one in gone)
        return [one.item for one in gone]

    def put_running(self, item: Item) -> None:
        before = self.running.get(item.key)
        self.running[item.key] = Running(item, before.version + 1, before.shown) if before else Running(item)

    def not_shown(self, destination: str) -> list[Lease]:
        return [
            Lease(one.version, one.item.key, one.item.payload)
            for one in self.running.values()
            if one.item.destination == destination and one.shown < one.version
        ]

    def mark_shown(self, lease: Lease) -> None:
        if lease.key in self.running:
            self.running[lease.key].shown = lease.id

    # Emptying.

    def lease(self, destination: str, limit: int, max_bytes: int, but: Collection[Waiting]) -> list[Waiting]:
        chosen: list[Waiting] = []
        for one in self.waiting:
            if one.item.destination == destination and one not in but and len(chosen) < limit:
                chosen.append(one)
                if sum(len(each.item.payload) for each in chosen) > max_bytes:
                    return chosen[:-1] or chosen
        return chosen

    def ack(self, leased: Collection[Waiting], destination: str) -> None:
        self.waiting = [one for one in self.waiting if one not in leased]
        self.failures.pop(destination, None)

    def nack(self, destination: str, reason: str, now: float) -> None:
        failed = self.failures.get(destination, Failed(destination, "", now, now, 0))
        self.failures[destination] = replace(failed, reason=reason, latest=now, attempts=failed.attempts + 1)

    def add_dead_letter(self, leased: Waiting, identity: int, reason: str, now: float) -> None:
        if leased in self.waiting:
            self.waiting.remove(leased)
            self.dead = [one for one in self.dead if one.item.key != leased.item.key]
            self.dead.append(Dead(leased.item, leased.created, now, identity, reason))

    # Dead letters.

    def longest_dead(self, but: int | None = None) -> list[Dead]:
        return sorted(
            (one for one in self.dead if one.id != but), key=lambda letter: (letter.died, letter.id)
        )

    def forget_dead(self, gone: Sequence[Dead]) -> None:
        self.dead = [one for one in self.dead if one not in gone]
        self.lost.update(one.item.producer for one in gone)

    def retry(self, keys: Collection[str]) -> int:
        retried = sorted((one for one in self.dead if one.item.key in keys), key=lambda letter: letter.id)
        self.dead = [one for one in self.dead if one not in retried]
        newer = {one.item.key for one in self.waiting}
        for one in retried:
            if one.item.key not in newer:
                self.put([one.item], one.created)
        return len(retried)

    # What a lost file takes with it.

    def moved(self, found: Mapping[str, bytes]) -> None:
        """What waits and was `found` is in another file: old leases are void. All else was in the old one."""
        assert found.keys() <= {one.item.key for one in self.waiting}
        self.waiting = [
            replace(one, item=replace(one.item, payload=found[one.item.key]))
            for one in self.waiting
            if one.item.key in found
        ]
        self.running, self.dead, self.failures, self.lost = {}, [], {}, Counter()
