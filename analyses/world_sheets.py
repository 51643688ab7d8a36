"""Contact sheets of the procedural worlds: every category, normal and flawed, with the mask outlined.

    python analyses/world_sheets.py --out docs

Writes ``world-industrial.jpg`` and ``world-medical.jpg``, and one row for each flaw family.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES, HELD_OUT, ROLES
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import as_bytes, render
from headlens.data.procedural.scene import Category

TILE, COLUMNS, LABEL = 112, 10, 150


def outlined(image: Tensor, mask: Tensor) -> Tensor:
    """Images [B, 3, S, S] with the edge of their masks [B, 1, S, S] in red."""
    edge = F.max_pool2d(mask.float(), 3, 1, 1) - mask.float()
    return image + (image.new_tensor([1.0, 0.1, 0.1]).view(1, 3, 1, 1) - image) * edge


def tiles(category: Category, family: str | None, numbers: range, seed: int) -> list[Tensor]:
    """Samples of one category as [3, S, S] bytes."""
    painter = None if family is None else FAMILIES[category.domain][family]
    draw = Draw.of(seed, f"sheet/{category.name}/{family}", torch.tensor(list(numbers), dtype=torch.int32))
    made = render(category, painter, draw, 2 * TILE)
    return list(F.avg_pool2d(as_bytes(outlined(made.image, made.mask)).float(), 2).round().to(torch.uint8))


def sheet(rows: list[tuple[str, list[Tensor]]]) -> Image.Image:
    """Rows of tiles with a label before each."""
    page = Image.new("RGB", (LABEL + TILE * max(len(r) for _, r in rows), TILE * len(rows)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for y, (label, row) in enumerate(rows):
        pen.text((6, y * TILE + TILE / 2), label, fill="black", font=font, anchor="lm")
        for x, tile in enumerate(row):
            page.paste(Image.fromarray(tile.permute(1, 2, 0).numpy()), (LABEL + x * TILE, y * TILE))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    for domain, families in FAMILIES.items():
        categories = [category for category in CATEGORIES.values() if category.domain == domain]
        rows = []
        for category in categories:
            row = tiles(category, None, range(COLUMNS // 2), args.seed)
            for i in range(COLUMNS - len(row)):
                row += tiles(category, category.flaws[i % len(category.flaws)], range(i, i + 1), args.seed)
            rows.append((f"{category.name}\n({ROLES[category.name]})", row))
        sheet(rows).save(args.out / f"world-{domain}.jpg", quality=85)
        rows = []
        for family in families:
            having = [category for category in categories if family in category.flaws]
            row = [tiles(having[i % len(having)], family, range(i, i + 1), args.seed)[0] for i in range(COLUMNS)]
            rows.append((f"{family}{chr(10)}(held out)" if family in HELD_OUT else family, row))
        sheet(rows).save(args.out / f"world-{domain}-flaws.jpg", quality=85)


if __name__ == "__main__":
    main()
