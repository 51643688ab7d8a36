"""Runs that ship with headlens: detectors on the embedded backbones, which have seen procedural images only.

A name is the backbone's, the domain's and the method's: ``mini-industrial`` and ``mini-captions-medical`` are HeadCLIP;
with ``-anomalyclip`` behind they are without head weights and joint score, with ``-shallow`` without deep prompts, with
``-weights`` (on ``mini-captions``) they are hand-written prompts with head weights. A number behind is the seed: three
on ``mini``; on ``mini-captions`` ten of HeadCLIP and five of the others.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
NAMES = tuple(sorted(path.parent.name for path in _HERE.glob("*/config.toml")))


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
