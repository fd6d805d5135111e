"""Finds runs that nothing holds any more: their end can never be reported."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator

__all__ = ["GRACE", "Life", "LostRuns"]

GRACE = 0.5
"""Seconds that a lost run has to end itself: the garbage collector reports that an object is gone before it
closes the generator that held it, and the generator then reports its end."""


class Life(weakref.ref[Hashable]):
    """A weak reference to an object that lives as long as the end of its run may still be reported."""

    __slots__ = ("run_id",)
    run_id: Hashable


class LostRuns:
    """Runs whose watched object is gone, with the time at which it was deleted."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Take times from `clock`, in nanoseconds."""
        self._clock = clock
        self._lost: deque[tuple[int, Life]] = deque()

    def __bool__(self) -> bool:
        return bool(self._lost)

    def watch(self, run_id: Hashable, watched: Hashable | None) -> Life | None:
        """Watch the object of a run; a run without one never counts as lost."""
        if watched is None:
            return None
        life = Life(watched, self._note)
        life.run_id = run_id
        return life

    def due(self, grace: float) -> Iterator[Life]:
        """Return, once each, the runs that were lost more than `grace` seconds ago."""
        until = self._clock() - grace * 1e9
        for _ in range(len(self._lost)):
            try:
                lost_at, life = self._lost.popleft()
            except IndexError:  # another thread takes them too
                return
            if lost_at > until:
                self._lost.appendleft((lost_at, life))
                return
            yield life

    def _note(self, life: Life) -> None:
        # The garbage collector may call this at any moment, also while the recorder's lock is held: so it
        # takes no lock and ends no run.
        self._lost.append((self._clock(), life))
