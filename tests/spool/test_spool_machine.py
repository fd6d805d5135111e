"""Does to a spool whatever comes to Hypothesis' mind, and compares it with a plain list.

`--hypothesis-profile=long --timeout=0` (see `conftest`) takes ten minutes, and another way each time.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import chain
from pathlib import Path
from typing import Final
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from langchain_mlflow_tracer.spool import database
from langchain_mlflow_tracer.spool.rows import Item, Lease, ProducerTotals
from langchain_mlflow_tracer.spool.spool import FILE, Spool
from tests.support.fakes import FakeClock
from tests.support.spool_model import Dead, Model, Running, Waiting

MAX_BYTES: Final = 2**20

HALF: Final = MAX_BYTES // 2
"""Bytes below which nothing has to go: of the bound a quarter is the log's, and pages are not full."""

PAGE: Final = 4096

PRODUCERS: Final = "pq"
"""Each of them puts by a spool object of its own, as processes do."""

keys = st.integers(0, 3)
destinations = st.sampled_from(["d", "e"])
sizes = st.one_of(st.integers(0, 300), st.integers(0, 60_000), st.just(200_000))
spools = st.integers(0, len(PRODUCERS) - 1)


class SpoolMachine(RuleBasedStateMachine):
    leases: Bundle[tuple[Lease, Waiting]] = Bundle("leases")
    shows: Bundle[Lease] = Bundle("shows")

    def __init__(self) -> None:
        super().__init__()
        self.looks = patch.object(database, "CHECK_EVERY", 0.0)  # a file that is gone is noticed at once
        self.looks.start()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.model = Model()
        self.made = 0
        self.ids: dict[int, tuple[str, bytes]] = {}
        self.live: set[str] = set()

    @initialize()
    def open(self) -> None:
        self.spools = [self.opened() for _ in PRODUCERS]

    def opened(self) -> Spool:
        return Spool(self.folder, MAX_BYTES, self.clock)

    def teardown(self) -> None:
        for spool in self.spools:
            spool.close()
        self.looks.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def item(self, producer: int, key: int, size: int) -> Item:
        """Make an item like no other. What it is called says where it goes: a trace stays with its own."""
        self.made += 1
        name = PRODUCERS[producer]
        return Item(f"{name}{key}", "de"[key % 2], name, str(self.made).encode().ljust(size, b"."))

    # Putting.

    @rule(by=spools, put=st.lists(st.tuples(keys, sizes), min_size=1, max_size=6))
    def put(self, by: int, put: list[tuple[int, int]]) -> None:
        items = [self.item(by, key, size) for key, size in put]
        gone = self.spools[by].put(items)
        self.model.put(items, self.clock.now)
        evicted = self.model.evict(gone)
        assert len(evicted) == gone
        if evicted:
            assert self.held() + len(evicted[-1].payload) + PAGE > HALF

    def held(self) -> int:
        """At most how many bytes of pages the spool needs for what it holds."""
        model = self.model
        held: list[Waiting | Dead | Running] = [*model.waiting, *model.dead, *model.running.values()]
        return sum(len(one.item.payload) + 2 * PAGE for one in held)

    @rule(by=spools, put=st.lists(st.tuples(keys, st.integers(0, 300)), min_size=1, max_size=3))
    def put_running(self, by: int, put: list[tuple[int, int]]) -> None:
        items = [self.item(by, key, size) for key, size in put]
        self.spools[by].running.put(items)
        for item in items:
            self.model.put_running(item)
        self.live.add(PRODUCERS[by])

    @rule(by=spools, destination=destinations, max_bytes=st.integers(0, 500), target=shows)
    def not_shown(self, by: int, destination: str, max_bytes: int) -> MultipleResults[Lease]:
        found = self.spools[by].running.not_shown(destination, max_bytes)
        expected = self.model.not_shown(destination)
        assert all(lease in expected for lease in found)
        assert bool(found) == bool(expected)
        assert len(found) <= 1 or sum(len(lease.payload) for lease in found) <= max_bytes
        return multiple(*found)

    @rule(by=spools, lease=shows)
    def mark_shown(self, by: int, lease: Lease) -> None:
        self.spools[by].running.mark_shown([lease])
        self.model.mark_shown(lease)

    # Emptying.

    @rule(
        by=spools,
        destination=destinations,
        limit=st.integers(1, 6),
        max_bytes=st.integers(0, 100_000),
        but=st.lists(leases, max_size=3),
        target=leases,
    )
    def lease(
        self, by: int, destination: str, limit: int, max_bytes: int, but: list[tuple[Lease, Waiting]]
    ) -> MultipleResults[tuple[Lease, Waiting]]:
        held = {lease.id for lease, _ in but}
        found = self.spools[by].lease(destination, limit, max_bytes, held)
        expected = self.model.lease(destination, limit, max_bytes, [one for _, one in but])
        assert [(one.key, one.payload) for one in found] == [(o.item.key, o.item.payload) for o in expected]
        for lease in found:
            assert self.ids.setdefault(lease.id, (lease.key, lease.payload)) == (lease.key, lease.payload)
        return multiple(*zip(found, expected, strict=True))

    @rule(by=spools, leased=leases)
    def lease_one(self, by: int, leased: tuple[Lease, Waiting]) -> None:
        lease, one = leased
        assert self.spools[by].lease_one(lease.id) == ([lease] if one in self.model.waiting else [])

    @rule(by=spools, destination=destinations, leased=st.lists(leases, max_size=4))
    def ack(self, by: int, destination: str, leased: list[tuple[Lease, Waiting]]) -> None:
        self.spools[by].ack([lease for lease, _ in leased], destination)
        self.model.ack([one for _, one in leased], destination)

    @rule(by=spools, destination=destinations, reason=st.sampled_from(["refused", "timed out"]))
    def nack(self, by: int, destination: str, reason: str) -> None:
        self.spools[by].nack(destination, reason)
        self.model.nack(destination, reason, self.clock.now)

    @rule(by=spools, leased=leases)
    def add_dead_letter(self, by: int, leased: tuple[Lease, Waiting]) -> None:
        lease, one = leased
        gone = self.spools[by].dead_letters.add(lease, "malformed")
        self.model.add_dead_letter(one, lease.id, "malformed", self.clock.now)
        older = self.model.longest_dead(but=lease.id)
        assert gone <= len(older)
        self.model.forget_dead(older[:gone])
        held = sum(len(one.item.payload) for one in self.model.dead)
        assert held <= MAX_BYTES // 10 or len(self.model.dead) == 1

    @rule(by=spools)
    def drain(self, by: int) -> None:
        right = self.spools[by].drain()
        assert right is not None
        assert [spool.drain() for spool in self.spools] == [None, None]
        right.release()

    # Dead letters.

    @rule(by=spools, chosen=st.sets(keys))
    def retry(self, by: int, chosen: set[int]) -> None:
        named = [f"{name}{key}" for name in PRODUCERS for key in chosen]
        assert self.spools[by].dead_letters.retry(named) == self.model.retry(named)

    @rule(by=spools, chosen=st.sets(keys))
    def drop(self, by: int, chosen: set[int]) -> None:
        named = [f"{name}{key}" for name in PRODUCERS for key in chosen]
        gone = [one for one in self.model.dead if one.item.key in named]
        assert self.spools[by].dead_letters.drop(named) == len(gone)
        self.model.forget_dead(gone)

    # What happens to it.

    @rule(seconds=st.sampled_from([1, 60, 3_600, -1, -3_600]))
    def time_passes_or_jumps(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(by=spools)
    def shrink(self, by: int) -> None:
        self.spools[by].shrink()

    @rule(by=spools)
    def close_and_reopen(self, by: int) -> None:
        self.spools[by].close()
        self.live.discard(PRODUCERS[by])
        self.spools[by] = self.opened()

    @rule(folder_too=st.booleans(), first=spools)
    def delete(self, folder_too: bool, first: int) -> None:  # noqa: FBT001 - drawn by name
        """Whoever has the file open still sees it: what waits is brought along, with the next use."""
        before = self.found()
        if folder_too:
            shutil.rmtree(self.folder)
        else:
            for file in self.folder.glob(f"{FILE}*"):
                file.unlink()
        for spool in (self.spools[first], *self.spools):
            spool.figures.totals()
        self.model.moved(whole := self.found())
        assert whole == before

    @rule(offset=st.sampled_from([0, 100, PAGE]), finder=spools)
    def damage(self, offset: int, finder: int) -> None:
        """Found by who opens it next. What waits may be lost or damaged, but what is found was there."""
        self.spools[finder]._database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        file = self.folder / FILE
        whole = file.read_bytes()
        file.write_bytes(whole[:offset] + b"\xa5" * (len(whole) - offset))
        self.close_and_reopen(finder)
        for spool in self.spools:
            spool.figures.totals()
        self.model.moved(self.found())

    def found(self) -> dict[str, bytes]:
        leases = [self.spools[0].lease(name, 100, 2 * MAX_BYTES) for name in ("d", "e")]
        return {lease.key: lease.payload for lease in chain(*leases)}

    # What must be so at any time, whoever looks.

    @invariant()
    def what_is_there_is_what_should_be(self) -> None:
        waiting = self.model.waiting
        for spool in self.spools:
            totals = spool.figures.totals()
            assert (totals.waiting, totals.dead, totals.running) == (
                len(waiting), len(self.model.dead), len(self.model.running),
            )  # fmt: skip
            assert totals.size == sum(len(one.item.payload) for one in waiting) <= MAX_BYTES
            assert totals.oldest == min((one.created for one in waiting), default=None)
            assert spool.figures.is_empty() == (not waiting and not self.model.running)

    @invariant()
    def everyone_knows_what_became_of_theirs(self) -> None:
        for spool in self.spools:
            for name in PRODUCERS:
                own = ProducerTotals(
                    waiting=sum(one.item.producer == name for one in self.model.waiting),
                    dead=sum(one.item.producer == name for one in self.model.dead),
                    lost=self.model.lost[name],
                )
                assert spool.figures.of_producer(name) == own
                assert spool.figures.waiting_of(name) == own.waiting

    @invariant()
    def destinations_are_served_in_the_order_in_which_they_wait(self) -> None:
        waited_for = list(dict.fromkeys(one.item.destination for one in self.model.waiting))
        to_show = {name for name in ("d", "e") if self.model.not_shown(name)} - set(waited_for)
        for spool in self.spools:
            found = spool.destinations()
            assert found[: len(waited_for)] == waited_for
            assert sorted(found[len(waited_for) :]) == sorted(to_show)

    @invariant()
    def failures_are_told(self) -> None:
        for spool in self.spools:
            assert {one.destination: one for one in spool.figures.failures()} == self.model.failures

    @invariant()
    def dead_letters_are_whole(self) -> None:
        expected = [
            (one.item.key, one.item.destination, one.created, one.died, one.reason, one.item.payload)
            for one in self.model.longest_dead()
        ]
        for spool in self.spools:
            found = [
                (one.key, one.destination, one.created, one.died, one.reason, one.payload)
                for one in spool.dead_letters
            ]
            assert found == expected

    @invariant()
    def only_what_the_dead_left_running_is_left(self) -> None:
        expected = {
            one.item.key: one.item
            for one in self.model.running.values()
            if one.item.producer not in self.live
        }
        for spool in self.spools:
            assert {item.key: item for item in spool.running.of_dead_processes()} == expected


TestSpoolMachine = SpoolMachine.TestCase
