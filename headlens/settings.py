"""Tables of settings: each value is of its field's type, whatever was written."""

from __future__ import annotations

import inspect
import re
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from numbers import Integral, Real
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from headlens.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST = 2**53  # beyond it not every whole number is one of JSON's


class Settings:
    """What the tables of ``config.toml`` can do; a frozen dataclass inherits from it.

    Its fields are whole or finite numbers, booleans, strings out of a few, and tuples of these.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]
            object.__setattr__(self, name, _typed(name, getattr(self, name), hints[name]))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a table of ``config.toml``.

        Raises:
            ConfigError: a field that does not exist, one that is missing, or a value of another type.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is read from a table, not from {reprlib.repr(values)}")
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}; available: {', '.join(known)}")
        given = {*values, *(field.name for field in fields(cls) if field.default is not MISSING)}  # type: ignore[arg-type]
        if absent := [name for name in known if name not in given]:
            raise ConfigError(f"{cls.__name__} needs {absent[0]}; its fields are {', '.join(known)}")
        return cls(**values)

    def table(self) -> dict[str, Any]:
        """For ``config.toml``."""
        return asdict(self)  # type: ignore[call-overload]


def _hints(settings: type) -> dict[str, Any]:
    """Types of the fields alone: Python 3.10 evaluates no plain ``ClassVar``, which stands at constants of settings."""
    names = {field.name for field in fields(settings)}
    hints: dict[str, Any] = {}
    for cls in reversed(settings.__mro__):
        written = {name: hint for name, hint in vars(cls).get("__annotations__", {}).items() if name in names}
        holder = SimpleNamespace(__annotations__=written)
        hints |= get_type_hints(holder, getattr(sys.modules.get(cls.__module__), "__dict__", {}))
    return hints


def documented(settings: type, name: str) -> str:
    """What the docstring of ``settings`` says of a field, on one line; empty where it says nothing.

    >>> class Blur:
    ...     '''A Gaussian.
    ...
    ...     Args:
    ...         sigma, kernel: standard deviation, and width,
    ...             in patches.
    ...     '''
    >>> documented(Blur, "kernel")
    'sigma, kernel: standard deviation, and width, in patches'
    """
    entries = re.findall(r"^    (\w[\w, ]*: .*(?:\n {8}.*)*)", inspect.getdoc(settings) or "", re.MULTILINE)
    lines = [" ".join(entry.split()).rstrip(".") for entry in entries]
    return next((line for line in lines if name in line.partition(":")[0].split(", ")), "")


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own type, numpy's numbers and lists included.

    >>> _typed("taps", [5, 11], tuple[int, ...]), _typed("alpha", 1, float)
    ((5, 11), 1)
    >>> _typed("alpha", float("nan"), float)
    Traceback (most recent call last):
    headlens.errors.ConfigError: alpha is nan; it is a finite number
    """
    args, number = get_args(hint), not isinstance(value, bool)
    if get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and (args[-1] is ... or len(value) == len(args)):
            return tuple(_typed(name, one, args[0]) for one in value)
        fits, what = False, "it is a list" if args[-1] is ... else f"it is a list of {len(args)}"
    elif hint is bool:
        fits, what = isinstance(value, bool), "it is true or false"
    elif hint is int:
        fits, what = number and isinstance(value, Integral) and abs(int(value)) <= _LARGEST, "it is a whole number"
    elif hint is float:  # of float32's, in which a detector computes; NaN is not
        fits, what = number and isinstance(value, Real) and abs(value) <= 1e38, "it is a finite number"  # type: ignore[operator]
    elif hint is str:
        fits, what = isinstance(value, str), "it is text"
    else:
        fits, what = isinstance(value, str) and value in args, f"it can be {', '.join(args)}"
    if not fits:
        raise ConfigError(f"{name} is {reprlib.repr(value)}; {what}")
    if hint is int:
        return int(value)
    return float(value) if hint is float and not isinstance(value, int | float) else value
