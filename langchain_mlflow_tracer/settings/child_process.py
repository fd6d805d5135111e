"""Makes the environment of the sender process, and reads it there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.mlflow_variables import tracking_uri
from langchain_mlflow_tracer.settings.options import PREFIX

__all__ = ["child_environment", "download_nothing", "full_uris", "uris_from_parent"]

_FULL_URIS: Final = f"{PREFIX}_FULL_URIS"
_PRICES: Final = "MLFLOW_MODEL_CATALOG_URI"
_PACKAGE_ROOT: Final = Path(__file__).resolve().parents[2]


def child_environment(full_uris: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a sender process: it can import this package, and does not trace itself.

    MLflow computes the cost of a stored model call from a price list that it downloads, unless
    `MLFLOW_MODEL_CATALOG_URI` is set; empty means the list in the package (mlflow 3.17). The credentials in
    `full_uris` are passed in the environment because that, unlike the spool, is not on disk.
    """
    path = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    return {
        _PRICES: "",
        **{name: value for name, value in os.environ.items() if name != PREFIX},
        "PYTHONPATH": path,
        _FULL_URIS: json.dumps(dict(full_uris)),
    }


def download_nothing(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make MLflow in this process read the price list in its package; see `child_environment`."""
    environ.setdefault(_PRICES, "")


def uris_from_parent(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the tracking URIs with credentials that the parent process gave, by those without."""
    uris: dict[str, str] = json.loads(environ.get(_FULL_URIS) or "{}")
    return uris


def full_uris(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return those of the parent process, and the one of this process's own settings."""
    uris = uris_from_parent(environ)
    own = Destination(tracking_uri(environ.get(f"{PREFIX}_TRACKING_URI"), environ))
    if own.has_credentials:
        uris[own.without_credentials().tracking_uri] = own.tracking_uri
    return uris
