"""Creates an environment for each contestant, once: no contestant is a dependency of the package."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["default_folder", "interpreter"]

REQUIREMENTS: Final = Path(__file__).with_name("requirements.toml")

SHARED: Final = {"untraced": "tracer", "empty": "tracer", "tracer-sync": "tracer", "tracer-parked": "tracer"}
"""Contestants that use the environment of another one."""


def default_folder() -> Path:
    """Return the cache folder for the environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "langchain-mlflow-tracer-cost"


def interpreter(name: str, folder: Path) -> str | None:
    """Return the Python of the environment of `name`, which is created if necessary; None if that fails.

    Its folder is named after what is in it, so a changed requirement makes a new one.
    """
    name = SHARED.get(name, name)
    wanted = _wanted(name)
    made = folder / f"{name}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    python, ready = made / "bin" / "python", made / "ready"
    if not ready.exists():
        print(f"creating {made}", file=sys.stderr)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(made)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        except subprocess.CalledProcessError as error:
            print(f"{name} is missing: {error}", file=sys.stderr)
            return None
        ready.touch()
    return str(python)


def _wanted(name: str) -> list[str]:
    requirements = tomllib.loads(REQUIREMENTS.read_text("utf-8"))
    return [*([] if name == "chart" else requirements["common"]), *requirements["environments"][name]]
