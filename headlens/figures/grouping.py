"""Which of several runs are seeds of one method, and which are that method without a part of it; by their configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headlens.errors import ConfigError
from headlens.training.distinct import check_distinct
from headlens.training.run import Run

READING = {"alpha", "pool", "top", "sigma"}
"""Fields that say how a score is read. No training depends on them: runs that differ in these alone are the same."""
WITHOUT = {
    "head weights": ("head_weights", "none", {"head_weights", "streams", "lr_heads"}),
    "deep prompts": ("deep", 0, {"deep", "deep_tokens"}),
}
"""A part of the method: the field that switches it off, at what, and all fields that have no meaning without it."""


@dataclass(frozen=True)
class Group:
    """Runs of one domain.

    Args:
        whole: those that differ from the first one in nothing but their seed.
        without: those that lack one part of the method and differ in nothing else, by the part's name.
        left_out: why others have no place, by the name of their folder.
    """

    whole: list[Run]
    without: dict[str, list[Run]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def every(self) -> list[Run]:
        """All that have a place."""
        return self.whole + [run for own in self.without.values() for run in own]


def grouped(runs: Sequence[Run]) -> Group:
    """Sorts runs by what their configs differ in from the first one's.

    Raises:
        ConfigError: no run, two whose folders have the same name, which figures could not tell apart, or one run twice.

    >>> import headlens
    >>> found = grouped(headlens.runs("mini-industrial", "mini-industrial-anomalyclip-1"))
    >>> len(found.whole), [run.folder.name for run in found.without["head weights"]]
    (3, ['mini-industrial-anomalyclip-1'])
    """
    if not runs:
        raise ConfigError("no run; give a run folder, or a shipped run")
    names = [run.folder.name for run in runs]
    if len(set(names)) != len(names):
        raise ConfigError(f"two runs are called {max(names, key=names.count)!r}; give their folders different names")
    group = Group([])
    for run in runs:
        changed = differing(run, runs[0])
        place = next((part for part, own in WITHOUT.items() if _lacks(run, part, changed, own[2])), None)
        if not changed:
            group.whole.append(run)
        elif place is not None:
            group.without.setdefault(place, []).append(run)
        else:
            group.left_out[run.folder.name] = f"differs from {names[0]} in {', '.join(sorted(changed))}"
    for seeds in (group.whole, *group.without.values()):
        check_distinct(seeds)
    return group


def differing(run: Run, other: Run) -> set[str]:
    """Names of all that two runs differ in, but the seed and how the score is read."""

    def facts(one: Run) -> dict[str, Any]:
        # Where nobody has said how it was trained, a run is no other one's seed.
        training = one.training.table() if one.training is not None else {"training": one.folder}
        known = one.detector.config.table() | training | {"backbone": one.detector.backbone.provenance}
        return known | {name: one.card.get(name) for name in ("trained_on", "images")}

    ours, theirs = facts(run), facts(other)
    return (
        {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)} - READING - {"seed", "save_every"}
    )


def _lacks(run: Run, part: str, changed: set[str], allowed: set[str]) -> bool:
    name, off, _ = WITHOUT[part]
    return name in changed and changed <= allowed and getattr(run.detector.config, name) == off
