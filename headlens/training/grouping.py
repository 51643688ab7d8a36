"""Which of several runs are seeds of one method, and which are that method without a part of it, by their settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headlens.detectors.detector import Detector
from headlens.errors import ConfigError
from headlens.provenance import learned_sha256
from headlens.training.run import Run


@dataclass(frozen=True)
class Group:
    """Runs of one domain.

    Args:
        whole: those that differ from the first one in nothing but their seed.
        without: those that lack one part of the method and differ in nothing else, by the part's name.
        others: those of other methods that were trained on the same data, by the method's name; each has seeds alone.
        left_out: why others have no place, by the name of their folder.
    """

    whole: list[Run]
    without: dict[str, list[Run]] = field(default_factory=dict)
    others: dict[str, list[Run]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def every(self) -> list[Run]:
        """All of the method, with its parts and without."""
        return self.whole + [run for runs in self.without.values() for run in runs]

    @property
    def placed(self) -> list[Run]:
        """The same, and those of other methods."""
        return self.every + [run for runs in self.others.values() for run in runs]

    @property
    def methods(self) -> dict[str, list[Run]]:
        """The whole method and all others by name."""
        return {self.whole[0].detector.method: self.whole, **self.others}


def grouped(runs: Sequence[Run]) -> Group:
    """Sorts runs by what their configs differ in from the first one's, or from the first of their method.

    Raises:
        ConfigError: no run, two whose folders have the same name, which figures could not tell apart, or one run twice.

    >>> import headlens
    >>> group = grouped(headlens.runs("mini-industrial", "mini-industrial-anomalyclip-1"))
    >>> len(group.whole), [run.folder.name for run in group.without["head weights"]]
    (3, ['mini-industrial-anomalyclip-1'])
    """
    if not runs:
        raise ConfigError("no run; give a run folder, or a shipped run")
    names = [run.folder.name for run in runs]
    if len(set(names)) != len(names):
        raise ConfigError(f"two runs are called {max(names, key=names.count)!r}; give their folders different names")
    group = Group([])
    for run in runs:
        seeds, changed = _place(run, runs[0], group)
        if changed:
            group.left_out[run.folder.name] = f"differs from {seeds[0].folder.name} in {', '.join(sorted(changed))}"
        else:
            seeds.append(run)
    for seeds in (group.whole, *group.without.values(), *group.others.values()):
        _check_distinct(seeds)
    return group


def _place(run: Run, first: Run, group: Group) -> tuple[list[Run], set[str]]:
    """The runs of a group that a run belongs to, and what it differs from them in nevertheless."""
    changed = differing(run, first)
    if part := _lacking(run, changed):
        return group.without.setdefault(part, []), set()
    if "method" not in changed or changed & {"backbone", "trained_on"}:
        return group.whole, changed
    seeds = group.others.setdefault(run.detector.method, [])
    return seeds, differing(run, seeds[0]) if seeds else set()


def seeds_of(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, and in how many images could be read, together.

    Raises:
        ConfigError: one run twice.

    >>> import headlens
    >>> runs = headlens.runs("mini-industrial", "mini-industrial-shallow-0")
    >>> [[run.seed for run in group] for group in seeds_of(runs)]
    [[0, 1, 2], [0]]
    """
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if _differing(run, group[0]) <= {"images"}), None)
        groups.append([run]) if group is None else group.append(run)
    for group in groups:
        _check_distinct(group)
    return groups


def _check_distinct(runs: Iterable[Run]) -> None:
    """Raises ConfigError where two have learned the same, to the bit: a copy of a run, or another path to it."""
    seen: dict[str, Run] = {}
    for run in runs:
        first = seen.setdefault(learned_sha256(run.detector), run)
        if first is not run:
            raise ConfigError(f"{first.folder} and {run.folder} are the same run; a run counts once, leave one out")


def differing(run: Run, other: Run) -> set[str]:
    """Names of all settings that two runs differ in, but the seed and how the score is read."""
    return _differing(run, other) - run.detector.config.READING


def _differing(run: Run, other: Run) -> set[str]:
    def facts(one: Run) -> dict[str, Any]:
        # Where it is not known how a run was trained, it is no other one's seed.
        training = one.training.table() if one.training is not None else {"training": one.folder}
        known = {"method": one.detector.method, **one.detector.config.table(), **training}
        known |= {"backbone": one.detector.backbone.provenance, "size": one.size}
        return known | {name: one.card.get(name) for name in ("trained_on", "images")}

    ours, theirs = facts(run), facts(other)
    return {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)} - {"seed", "save_every"}


def read_as(run: Run, other: Run) -> Detector:
    """The detector of ``run``, its scores read as ``other`` of the same method reads them.

    >>> import headlens
    >>> run, other = headlens.runs("mini-industrial-0", "mini-medical-0")
    >>> read_as(run, other).scoring == other.detector.scoring
    True
    """
    config = other.detector.config
    return run.detector.with_config(**{name: getattr(config, name) for name in config.READING})


def _lacking(run: Run, changed: set[str]) -> str | None:
    """The part of its method that a run is without, where it differs in nothing else."""
    config = run.detector.config
    for part, (name, off, fields) in config.WITHOUT.items():
        if name in changed and changed <= fields and getattr(config, name) == off:
            return part
    return None
