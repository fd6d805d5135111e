"""Forks this process, with objects of which each writes down what it is asked for."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable

import pytest

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.forks import ForkLock, Order
from langchain_mlflow_tracer.delivery.exporter import mlflow_import

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


@pytest.fixture
def own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other tests have entered."""
    monkeypatch.setattr(forks, "_entries", {})


def in_child(work: Callable[[], object]) -> object:
    """Return what `work` returns in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as text:
        returned = text.read()
    os.waitpid(child, 0)
    return returned


class Entered:
    def __init__(self, name: str, order: Order, journal: list[str]) -> None:
        self.name, self.journal = name, journal
        forks.enter(
            self, order, before=Entered.before, in_parent=Entered.in_parent, in_child=Entered.in_child
        )

    def before(self) -> None:
        self.journal.append(f"before {self.name}")

    def in_parent(self) -> None:
        self.journal.append(f"parent {self.name}")

    def in_child(self) -> None:
        self.journal.append(f"child {self.name}")


class Failing(Entered):
    def __init__(self, order: Order) -> None:
        forks.enter(self, order, before=Failing.fail, in_parent=Failing.fail, in_child=Failing.fail)

    def fail(self) -> None:
        raise RuntimeError("on purpose")


@pytest.mark.usefixtures("own_entries")
def test_objects_are_asked_in_their_order_before_a_fork_and_in_reverse_after_it() -> None:
    journal: list[str] = []
    entered = [
        Entered("database", Order.DATABASE, journal),
        Entered("bridge", Order.BRIDGE, journal),
        Failing(Order.PIPELINE),
        Entered("writer", Order.WRITER, journal),
    ]
    before = ["before bridge", "before database", "before writer"]
    assert in_child(lambda: journal) == repr([*before, "child writer", "child database", "child bridge"])
    assert journal == [*before, "parent writer", "parent database", "parent bridge"]
    assert len(entered) == 4


@pytest.mark.usefixtures("own_entries")
def test_an_object_that_nobody_refers_to_is_not_asked() -> None:
    journal: list[str] = []
    Entered("dropped", Order.WRITER, journal)
    gc.collect()
    assert in_child(lambda: journal) == "[]"
    assert not forks._entries


def test_a_fork_waits_for_the_holder_of_a_lock() -> None:
    lock, held = ForkLock(Order.PIPELINE, 10), threading.Event()
    journal: list[str] = []

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.1)
            journal.append("done")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    assert in_child(lambda: [*journal, uses(lock)]) == repr(["done", True])
    thread.join()
    assert uses(lock)


def test_a_fork_does_not_wait_longer_than_a_lock_allows_and_the_child_can_use_it() -> None:
    lock, held, let_go = ForkLock(Order.PIPELINE, 0.05), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    assert in_child(lambda: uses(lock)) == "True"
    let_go.set()
    thread.join()
    assert uses(lock)


def test_a_lock_may_be_held_by_the_thread_that_forks() -> None:
    lock = ForkLock(Order.PIPELINE, 0.05)

    def in_block() -> object:
        with lock:
            return in_child(lambda: leave(lock))

    assert in_block() == "True"
    assert uses(lock)


def leave(lock: ForkLock) -> bool:
    """Leave, in a child, the block in which its parent has forked; return whether the lock is free then."""
    lock.__exit__(None, None, None)
    return uses(lock)


def uses(lock: ForkLock) -> bool:
    """Whether another thread can take a lock."""
    used: list[bool] = []

    def use() -> None:
        with lock:
            used.append(True)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(10)
    return bool(used)


def test_threads_that_fork_at_once_take_turns() -> None:
    lock, ended = ForkLock(Order.PIPELINE, 10), list[object]()
    threads = [threading.Thread(target=lambda: ended.append(in_child(lambda: uses(lock)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == ["True"] * 8
    assert uses(lock)


def test_a_fork_waits_for_an_import_of_mlflow_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    began, names = threading.Event(), list[str]()

    class Importlib:
        @staticmethod
        def import_module(name: str) -> None:
            began.set()
            time.sleep(0.1)
            names.append(name)

    monkeypatch.setattr(mlflow_import, "importlib", Importlib)
    thread = threading.Thread(target=mlflow_import.import_mlflow)
    thread.start()
    began.wait(10)
    assert in_child(lambda: names) == repr(list(mlflow_import.MODULES))
    thread.join()
