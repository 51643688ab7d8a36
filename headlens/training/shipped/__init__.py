"""Runs that ship with headlens: detectors on the embedded backbones, which have seen procedural images only.

A name is the backbone's, the domain's and the method's: ``mini-industrial`` and ``mini-captions-medical`` are HeadCLIP;
with ``-anomalyclip`` behind they are without head weights (on ``mini`` without joint score, too), with ``-shallow``
without deep prompts. On ``mini-captions`` there are also ``-weights``, hand-written prompts with head weights, and
``-april-gan``, ``-aa-clip`` and ``-kanoclip``, whose tensors are stored in half precision. A number behind is the seed:
three on ``mini``; on ``mini-captions`` ten of HeadCLIP and five of the others.

Where no run is named, verbs take HeadCLIP on ``mini-captions``, where training pays; on ``mini`` hand-written prompts
are as good as all that was trained.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from headlens.errors import ConfigError

BACKBONE = "mini-captions"
"""The embedded backbone that verbs use where none is named."""
DOMAINS = ("industrial", "medical")
_HERE = Path(__file__).parent
COMPARISON = _HERE / "comparison.csv"
"""Of all methods, in long form; ``headlens.training.comparison`` reads it."""
COSTS = _HERE / "costs.csv"
"""Of all methods at full size, in long form; ``headlens.training.costs`` reads it."""
NAMES = tuple(sorted(path.parent.name for path in _HERE.glob("*/config.toml")))
METHODS = tuple(dict.fromkeys(re.sub(r"-\d+$", "", name) for name in NAMES))
"""The names without their seeds."""


def default(domain: str) -> str:
    """The runs of HeadCLIP, all seeds, that a verb takes for a domain where none is named.

    Raises:
        ConfigError: no run of that domain ships.

    >>> default("medical")
    'mini-captions-medical'
    """
    if domain not in DOMAINS:
        raise ConfigError(
            f"no run ships for domain {domain!r}; name a run with --run, or choose {' or '.join(DOMAINS)}"
        )
    return f"{BACKBONE}-{domain}"


def folders(name: str | Path) -> list[Path]:
    """The folders of a shipped run: one for a name with its seed, all seeds for one without; none if unknown.

    >>> [folder.name for folder in folders("mini-industrial")]
    ['mini-industrial-0', 'mini-industrial-1', 'mini-industrial-2']
    """
    name = str(name)
    return [_HERE / own for own in NAMES if own == name or re.sub(r"-\d+$", "", own) == name]


def expected_sha256(path: Path) -> str | None:
    """Of a file of a shipped run, as it ships; None of any other file.

    >>> expected_sha256(folders("mini-medical-0")[0] / "config.toml")[:8]
    '823e07f7'
    """
    return _hashes().get(f"{path.parent.name}/{path.name}") if path.parent.parent == _HERE else None


@cache
def _hashes() -> dict[str, str]:
    lines = [line.split("  ", 1) for line in (_HERE / "SHA256SUMS").read_text(encoding="ascii").splitlines()]
    return {name: digest for digest, name in lines}
