"""Runs that ship with headlens: detectors on the embedded backbone, which has seen painted pictures only.

``mini-industrial`` and ``mini-medical`` are HeadCLIP; with ``-anomalyclip`` behind they are without head weights and
joint score, with ``-shallow`` without deep prompts. Of each there are three seeds, ``mini-industrial-0`` to ``-2``.
"""

from __future__ import annotations

import re
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
