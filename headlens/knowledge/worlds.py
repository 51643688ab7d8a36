"""What is known of the procedural worlds: of each image its caption, and of what there is in them general sentences."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from headlens.knowledge.rows import Row, State

if TYPE_CHECKING:
    from headlens.data.procedural import World
    from headlens.data.procedural.scene import Category


def captions(world: World) -> tuple[Row, ...]:
    """A row for each sample; its image is called as ``headlens data make`` writes it.

    >>> from headlens.data.procedural import World
    >>> rows = captions(World("procedural:medical", per_category=2, size=56))
    >>> rows[1].image, rows[1].state
    ('head_ct/test/haemorrhage/001.png', 'anomalous')
    """
    source = f"caption of {world.spec}, seed {world.seed}, {world.size} px"
    return tuple(
        Row(
            world.domain,
            sample.category,
            "anomalous" if sample.anomalous else "normal",
            sample.caption,
            source,
            f"{sample.name}.png",
        )
        for sample in world
    )


@cache
def catalogued() -> tuple[Row, ...]:
    """General sentences about the categories of both ``aux`` sets and the flaws that these show, in words of captions.

    The embedded backbones have read these words, and few others. No image is painted for them.

    >>> [row.sentence for row in catalogued() if row.category == "wood"][-1]
    'a photo of a damaged wood with a loose thread'
    """
    from headlens.data.procedural.captions import states
    from headlens.data.procedural.catalogue import CATEGORIES, FAMILY_WORDS, HELD_OUT, ROLES

    rows = []
    for name, category in CATEGORIES.items():
        if ROLES[name] == "aux":
            bad = "abnormal" if category.domain == "medical" else "damaged"
            flaws = [f"{bad} {{}} with {FAMILY_WORDS[flaw][0]}" for flaw in category.flaws if flaw not in HELD_OUT]
            rows += _rows(category, "normal", states(category.domain, False))
            rows += _rows(category, "anomalous", (*states(category.domain, True), *flaws))
    return tuple(rows)


def _rows(category: Category, state: State, forms: tuple[str, ...]) -> list[Row]:
    from headlens.data.procedural.captions import article

    sentences = [article(f"a photo of a {form.format(category.words[0])}") for form in dict.fromkeys(forms)]
    source = "catalogue of the procedural worlds"
    return [Row(category.domain, category.name, state, sentence, source) for sentence in sentences]
