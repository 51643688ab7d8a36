"""Options that name groups: ``--group NAME=RUNS`` and ``--data NAME=IMAGES``."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from headlens.errors import ConfigError
from headlens.printing import did_you_mean
from headlens.training.shipped import DOMAINS, NAMES

GROUP = (
    "NAME=RUNS: a group of runs, such as food=runs/food-0,runs/food-1. RUNS are folders, shipped runs (without a seed: "
    "all seeds) or patterns such as 'runs/food-*', with commas between them. A name that is given again adds runs."
)


def groups_of(given: Iterable[str], shorthands: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """Runs by group, as ``--group`` names them; then those of options that are a group by themselves.

    Raises:
        ConfigError: no name or no runs, or a pattern that no run folder and no shipped run fits.

    >>> groups_of(["food=runs/a,runs/b", "wood=mini-medical-?"], {"medical": ["mini-medical-0"], "industrial": None})
    {'food': ['runs/a', 'runs/b'], 'wood': ['mini-medical-0', 'mini-medical-1', 'mini-medical-2'], 'medical': ['mini-medical-0']}
    """  # noqa: E501
    groups: dict[str, list[str]] = {}
    for text in given:
        name, sign, runs = text.partition("=")
        if not (sign and name.strip() and runs.strip(", ")):
            raise ConfigError(f"--group {text!r}: expected NAME=RUNS, such as food=runs/food-0,runs/food-1")
        groups.setdefault(name.strip(), []).extend(_runs(runs))
    for name, several in shorthands.items():
        for runs in several or ():
            groups.setdefault(name, []).extend(_runs(runs))
    return groups


def _runs(text: str) -> list[str]:
    """One folder, whatever is in its name; else what is between commas, patterns expanded."""
    if Path(text).exists():
        return [text]
    return [run for part in text.split(",") if part.strip() for run in _expanded(part.strip())]


def _expanded(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [pattern]
    folders = sorted(path for path in glob.glob(pattern) if Path(path).is_dir())  # noqa: PTH207  as it was typed
    runs = folders or [name for name in NAMES if fnmatchcase(name, pattern)]
    if not runs:
        raise ConfigError(f"{pattern}: no run folder and no shipped run fits this pattern")
    return runs


def images_by_group(given: Iterable[str], groups: Iterable[str]) -> dict[str, str]:
    """The images of every group; the procedural ones of its domain where that has some and none are named.

    Raises:
        ConfigError: a group without images, and as ``data_by_group``.
    """
    groups = list(groups)
    named = data_by_group(given, groups)
    for name in groups:
        shipped = [f"procedural:{level}" for level in _levels(name) if level in DOMAINS]
        if name not in named and not shipped:
            raise ConfigError(
                f"{name}: no images are named; give --data {name}=FOLDER, or --data FOLDER where all groups see the "
                "same"
            )
        named.setdefault(name, *shipped[:1])
    return {name: named[name] for name in groups}


def _levels(group: str) -> list[str]:
    """``food`` and ``headclip`` of ``headclip/food``."""
    return [level.strip() for level in group.split("/")]


def data_by_group(given: Iterable[str], groups: Iterable[str]) -> dict[str, str]:
    """Images by group, as ``--data NAME=IMAGES`` names them; without a name they are of all groups.

    A name may also be one level of groups that are named by several: ``food`` for ``headclip/food`` and ``crane/food``.

    Raises:
        ConfigError: a name of no group, or images twice for one.

    >>> data_by_group(["food=images/food"], ["food", "wood"]), data_by_group(["images"], ["food", "wood"])
    ({'food': 'images/food'}, {'food': 'images', 'wood': 'images'})
    """
    groups, data_of = list(groups), dict[str, str]()
    for text in given:
        name, sign, images = text.partition("=")
        if Path(text).exists() or not sign:
            names, images = groups, text
        elif not (names := [group for group in groups if name == group or name in _levels(group)]):
            raise ConfigError(
                f"--data {text!r}: no group is called {name!r}{did_you_mean(name, groups)}; there are "
                f"{', '.join(groups) or 'none'}"
            )
        else:
            images = images.strip()
        for one in names:
            if one in data_of:
                raise ConfigError(
                    f"--data {text!r}: {one} has images already ({data_of[one]}); name one data set a group"
                )
            data_of[one] = images
    return data_of
