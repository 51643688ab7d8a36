"""Tables of settings: each value is of its field's type, whatever was written."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from headlens.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST = 2**53  # beyond it not every whole number is one of JSON's
_LARGEST_FLOAT = 1e38  # of float32, in which a detector computes


class Settings:
    """What the tables of ``config.toml`` can do; a frozen dataclass inherits from it.

    Its fields are whole or finite numbers, booleans, strings out of a few, and tuples of these.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in (field.name for field in fields(self)):  # type: ignore[arg-type]
            object.__setattr__(self, name, _typed(name, getattr(self, name), hints[name]))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a table of ``config.toml``.

        Raises:
            ConfigError: a field that does not exist, or must be there and is not, or a value of another type.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__} is read from a table, not from {_short(values)}")
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}; there are {', '.join(known)}")
        given = {*values, *(field.name for field in fields(cls) if field.default is not MISSING)}  # type: ignore[arg-type]
        if absent := [name for name in known if name not in given]:
            raise ConfigError(f"{cls.__name__} has no {absent[0]}; it has {', '.join(known)}")
        return cls(**values)

    def table(self) -> dict[str, Any]:
        """For ``config.toml``."""
        return asdict(self)  # type: ignore[call-overload]


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own type, numpy's numbers and lists included.

    >>> _typed("taps", [5, 11], tuple[int, ...]), _typed("alpha", 1, float)
    ((5, 11), 1)
    >>> _typed("alpha", float("nan"), float)
    Traceback (most recent call last):
    headlens.errors.ConfigError: alpha is nan; it is a finite number
    """
    number = not isinstance(value, bool)
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{name} is {_short(value)}; it is true or false")
    if hint is int:
        if number and isinstance(value, Integral) and abs(int(value)) <= _LARGEST:
            return int(value)
        raise ConfigError(f"{name} is {_short(value)}; it is a whole number")
    if hint is float:
        if number and isinstance(value, Real) and abs(value) <= _LARGEST_FLOAT:  # type: ignore[operator]  # not NaN
            return value if isinstance(value, int | float) else float(value)
        raise ConfigError(f"{name} is {_short(value)}; it is a finite number")
    if hint is str:
        if isinstance(value, str):
            return value
        raise ConfigError(f"{name} is {_short(value)}; it is text")
    if get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise ConfigError(f"{name} is {_short(value)}; it can be {', '.join(get_args(hint))}")
    each = get_args(hint)
    if not isinstance(value, list | tuple) or (each[-1] is not ... and len(value) != len(each)):
        many = "a list" if each[-1] is ... else f"a list of {len(each)}"
        raise ConfigError(f"{name} is {_short(value)}; it is {many}")
    return tuple(_typed(name, one, each[0]) for one in value)


def _short(value: Any) -> str:
    return reprlib.repr(value)
