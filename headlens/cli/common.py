"""What several verbs have in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from headlens.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def tables(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables ``detector`` and ``training`` of a TOML file; empty where there is no file.

    Raises:
        ConfigError: not TOML, or another table.
    """
    given: dict[str, Any] = {}
    if path is not None:
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; expected TOML with tables [detector] and [training]") from error
    known = ("detector", "training")
    if unknown := [name for name in given if name not in (*known, "backbone") or not isinstance(given[name], dict)]:
        raise ConfigError(f"{path}: {unknown[0]!r} is no table that is known; there are [detector] and [training]")
    return {name: given.get(name, {}) for name in known}


def best_device() -> str:
    """``cuda`` or ``mps`` where there is one, else ``cpu``."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
