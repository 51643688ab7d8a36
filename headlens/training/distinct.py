"""Whether runs that are to count as seeds of one method are different runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from headlens.errors import ConfigError
from headlens.provenance import learned_sha256

if TYPE_CHECKING:
    from headlens.training.run import Run


def check_distinct(runs: Iterable[Run]) -> None:
    """A run, a copy of it, or another path to it counts once.

    Raises:
        ConfigError: two of the runs have learned the same, to the bit.

    >>> import headlens
    >>> check_distinct(headlens.runs("mini-medical", "mini-medical-1"))
    Traceback (most recent call last):
    headlens.errors.ConfigError: ...mini-medical-1 and ...mini-medical-1 are the same run; a run counts once, ...
    """
    seen: dict[str, Run] = {}
    for run in runs:
        learned = learned_sha256(run.detector)
        if learned in seen:
            raise ConfigError(
                f"{seen[learned].folder} and {run.folder} are the same run; a run counts once, leave one out"
            )
        seen[learned] = run
