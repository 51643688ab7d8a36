"""Packages whose names are imported from their modules when they are first asked for (PEP 562).

A package names what it shows once, as type checkers read it, and no import happens until a name is used:

    if TYPE_CHECKING:
        from headlens.heads.ablation import ablate as ablate

    lazily(__name__)
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

_SHOWN = re.compile(r"^    from (\S+) import (\w+) as \2$", re.MULTILINE)


class _Lazy(ModuleType):
    """A package that knows which module each of its names is in; in the package itself, where it is a module.

    ``dir`` lists what it shows, and not what its source imports: this is what a notebook completes.
    """

    __all__: list[str]

    def __getattr__(self, name: str) -> Any:
        module = self.__dict__.get("_lazily", {}).get(name)
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        inner = module == self.__name__
        loaded = importlib.import_module(f"{module}.{name}" if inner else module)
        self.__dict__[name] = value = loaded if inner else getattr(loaded, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # A module that is imported becomes an attribute of its package, and must not hide what is called as it is.
        hides = self.__dict__.get("_lazily", {}).get(name, self.__name__) != self.__name__
        if not (isinstance(value, ModuleType) and hides):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return self.__all__


def lazily(package: str, *others: str) -> None:
    """Makes the package of that ``__name__`` import names from their modules on first use; lists them in ``__all__``.

    Its source says which: those that it imports for type checkers as themselves. ``others`` are names that it has.
    """
    here = sys.modules[package]
    source = here.__spec__.loader.get_source(package)  # type: ignore[union-attr]
    shown = {name: module for module, name in _SHOWN.findall(source)}
    here.__dict__.update(_lazily=shown, __all__=sorted({*shown, *others}))
    here.__class__ = _Lazy
