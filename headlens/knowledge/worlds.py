"""The captions of procedural worlds as rows: what is true of each image, from how it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.knowledge.rows import Row

if TYPE_CHECKING:
    from headlens.data.procedural import World


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
