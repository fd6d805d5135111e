"""Finds runs that nothing holds any more: nobody is left who could report their end."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator

__all__ = ["GRACE", "Life", "LostRuns"]

GRACE = 0.5
"""Seconds that a lost run has to end itself: the garbage collector reports that an object is gone before it
closes the generator that held it, and the generator then reports its end."""


class Life(weakref.ref[Hashable]):
    """A weak reference to an object that is held as long as somebody may report the end of a run."""

    __slots__ = ("run_id",)
    run_id: Hashable


class LostRuns:
    """Runs whose object is gone, with the time at which it went."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Take times from `clock`, in nanoseconds."""
        self._clock = clock
        self._gone: deque[tuple[int, Life]] = deque()

    def __bool__(self) -> bool:
        return bool(self._gone)

    def watch(self, run_id: Hashable, watched: Hashable | None) -> Life | None:
        """Watch the object of a run; no run is lost that has none."""
        if watched is None:
            return None
        life = Life(watched, self._note)
        life.run_id = run_id
        return life

    def due(self, grace: float) -> Iterator[Life]:
        """Return, once each, the runs that were lost more than `grace` seconds ago."""
        until = self._clock() - grace * 1e9
        for _ in range(len(self._gone)):
            try:
                gone_at, life = self._gone.popleft()
            except IndexError:  # another thread takes them too
                return
            if gone_at > until:
                self._gone.appendleft((gone_at, life))
                return
            yield life

    def _note(self, life: Life) -> None:
        # The garbage collector calls this in the middle of anything, also while the recorder's lock is held:
        # so it takes no lock and ends no run.
        self._gone.append((self._clock(), life))
