"""Every preset in a row: what it is, what it learns, what can be imported, and which functions of the lens work on it.

To ask all of them takes a minute: ``overview.json`` ships with the answers, and ``analyses/methods_table.py`` makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from headlens.backbone import Backbone
    from headlens.works import Answer

BACKBONE = "mini-captions"
"""The embedded backbone that learned numbers are counted on."""
FILE = Path(__file__).with_suffix(".json")
_NUMBER = re.compile(r" \(arXiv (\d{4}\.\d{5})\)")
_SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 24, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 12},
}


class Row(NamedTuple):
    """A preset.

    Args:
        preset: its name.
        title: what it is.
        arxiv: number of its paper; empty where there is none.
        learned: numbers that it learns on ``BACKBONE``; 0 for one that is not trained.
        imported: what published files hold that ``headlens import`` reads; empty where it reads none.
        works: of every function of the lens, what ``headlens.works.works_on`` answers.
    """

    preset: str
    title: str
    arxiv: str
    learned: int
    imported: str
    works: dict[str, Answer]


def shipped() -> list[Row]:
    """A row for every preset, as it ships.

    >>> next(row for row in shipped() if row.preset == "april-gan").arxiv
    '2305.17382'
    """
    return [Row(**row) for row in json.loads(FILE.read_text(encoding="utf-8"))]


def rows(presets: Iterable[str] | None = None) -> list[Row]:
    """The same, asked now; of all presets when None.

    The lens is asked about presets as they are, untrained, on ``small``: what works depends on what a detector is made
    of, and not on what it has learned.
    """
    from headlens.detectors import PRESETS, build
    from headlens.works import works_on

    clip = small()
    return [described(name, works_on(build(clip, name))) for name in (PRESETS if presets is None else presets)]


def described(preset: str, works: dict[str, Answer]) -> Row:
    """The row of a preset, with what the lens answered."""
    from headlens.backbone import architecture_from_config
    from headlens.backbone.embedded import config
    from headlens.detectors import PRESETS
    from headlens.detectors.methods.importing import IMPORTED
    from headlens.detectors.methods.registry import title

    towers = architecture_from_config(config(BACKBONE)["model_cfg"])
    shapes, number = PRESETS[preset].learned_shapes(towers.vision, towers.text), _NUMBER.search(title(preset))
    return Row(
        preset=preset,
        title=_NUMBER.sub("", title(preset)),
        arxiv=number[1] if number else "",
        learned=sum(map(prod, shapes.values())),
        imported=IMPORTED.get(preset, ""),
        works=works,
    )


def small() -> Backbone:
    """A random CLIP with as many blocks as ViT-L/14, so that it can have every preset, and hardly any width."""
    from headlens.backbone import architecture_from_config, assemble

    return assemble(architecture_from_config(_SMALL, "small"), None)
