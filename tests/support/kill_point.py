"""Kills this process at the n-th line that it executes of a module of the package: a kill point, to the line.

Whatever the other threads do at that moment, they do not get to the end of it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import langchain_mlflow_tracer

__all__ = ["KillPoint", "die"]

PACKAGE = Path(langchain_mlflow_tracer.__file__).parent


@dataclass(frozen=True)
class KillPoint:
    """The `lines`-th line that is executed of `module`, by any thread."""

    module: str
    lines: int

    def arm(self, last_words: Callable[[str], object]) -> None:
        """Wait for that line from now on; `last_words` is told its place before the end."""
        file, left = str(PACKAGE / f"{self.module}.py"), self.lines

        def on_line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            left -= event == "line"
            if left == 0:
                last_words(f"{self.module}:{frame.f_lineno}")
                die()
            return on_line

        def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
            return on_line if frame.f_code.co_filename == file else None

        threading.settrace(on_call)
        sys.settrace(on_call)


def die() -> None:
    """End as a process does that the system runs out of memory for: no handler, no finally, no atexit."""
    os.kill(os.getpid(), signal.SIGKILL)
