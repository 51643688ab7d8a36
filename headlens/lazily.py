"""Packages whose names are imported from their modules when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """A package that knows which module each of its names is in."""

    def __getattr__(self, name: str) -> Any:
        module = self.__dict__.get("_lazily", {}).get(name)
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = importlib.import_module(f"{self.__name__}.{module or name}")
        self.__dict__[name] = value = getattr(found, name) if module else found
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # A module that is imported becomes an attribute of its package, and must not hide what is called as it is.
        if not (isinstance(value, ModuleType) and self.__dict__.get("_lazily", {}).get(name)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__.get("_lazily", {})})


def lazily(package: str, names: Mapping[str, Sequence[str]]) -> None:
    """Makes a package import names from its modules on first use.

    Args:
        package: its ``__name__``.
        names: of each module, what the package shows of it; of ``""``, the package's modules that it shows themselves.
    """
    here = sys.modules[package]
    here.__dict__["_lazily"] = {name: module for module, shown in names.items() for name in shown}
    here.__class__ = _Lazy
