"""What an embedded backbone can do on the procedural sets, without any training on top.

    python analyses/mini_eval.py mini mini-contrastive --per-category 80 --out docs/mini-eval.md

Hand-written prompts, taps 5, 11, 17, 23 of the local stream. I is the image AUROC of the joint score, C that of the
class token alone, P the pixel AUROC; each is the mean over categories. The floor is the strongest of three
local-contrast maps, which know nothing: the distance to it is what a backbone has learned.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mini_pretrain import LOCAL, TAPS, normalised
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from headlens.backbone import Backbone, VisionPlan, load
from headlens.baselines import SCALES, local_contrast
from headlens.data.procedural.worlds import SPECS, World
from headlens.detectors.parts.ensemble import ensemble
from headlens.detectors.scoring import Margins, Scoring
from headlens.detectors.text import Pair


@dataclass(frozen=True)
class Group:
    """One set, made once: images [n, 3, S, S] uint8, masks [n, S, S], and the category of each, [n]."""

    images: Tensor
    masks: Tensor
    category: Tensor

    @classmethod
    def made(cls, spec: str, per_category: int, device: torch.device, seed: int = 0) -> Group:
        """A procedural set; on a CPU one picture at a time, which is what its bytes are promised for."""
        world = World(spec, per_category, seed=seed)
        step = 1 if device.type == "cpu" else per_category
        parts = [world.batch(range(i, i + step), device) for i in range(0, len(world), step)]
        images, masks = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(images, masks, torch.arange(len(world), device=device) // per_category)

    @classmethod
    def read(cls, folder: Path, device: torch.device, size: int = 224) -> Group:
        """One category in MVTec's layout, squashed to ``size`` pixels."""
        images, masks = [], []
        for path in sorted((folder / "test").glob("*/*.png")) + sorted((folder / "test").glob("*/*.jpg")):
            image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
            mask = folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            normal = path.parent.name == "good"
            flaw = Image.new("L", (size, size)) if normal else Image.open(mask).convert("L").resize((size, size))
            masks.append(torch.from_numpy(np.array(flaw)) > 127)
        return cls(torch.stack(images).to(device), torch.stack(masks).to(device), torch.zeros(len(images)).to(device))

    def means(self, image_scores: dict[str, Tensor], maps: Tensor) -> dict[str, float]:
        """AUROC of every image score [n] and of the maps [n, S, S] against labels and masks, mean over categories."""
        rows: dict[str, list[float]] = {name: [] for name in (*image_scores, "P")}
        for number in self.category.unique():
            own = self.category == number
            label = self.masks[own].flatten(1).any(1).long()
            for name, scores in image_scores.items():
                rows[name].append(float(binary_auroc(scores[own], label)))
            rows["P"].append(float(binary_auroc(maps[own].flatten(), self.masks[own].flatten().long())))
        return {name: float(np.mean(values)) for name, values in rows.items()}


def prompts(backbone: Backbone) -> Tensor:
    """The hand-written normal and abnormal prompt, [2, d]: object-agnostic, as HeadCLIP's are."""
    return ensemble(backbone, ["object"])


@torch.no_grad()
def scores(
    backbone: Backbone, images: Tensor, text: Tensor, batch: int = 64, head_weights: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Joint scores [n], class-token scores [n] and maps [n, S, S] of uint8 images [n, 3, S, S]."""
    rows = []
    size = (images.shape[2], images.shape[3])
    for start in range(0, len(images), batch):
        part = normalised(images[start : start + batch].float() / 255)
        out = backbone.vision(part, VisionPlan(TAPS, LOCAL, head_weights or {}), hooked=False)
        taps = {tap: Pair(text).margin(tokens) for tap, tokens in out.patches.items()}
        found = Scoring()(Margins(Pair(text).margin(out.embedding), taps), backbone.vision.grid(*size), size)
        rows.append((found.joint_score, found.image_score, found.anomaly_map))
    joint, cls, maps = (torch.cat(column) for column in zip(*rows, strict=True))
    return joint, cls, maps


def floor(group: Group) -> dict[str, float]:
    """The strongest of three local-contrast maps; I is that of the map's maximum."""
    rows = []
    for scale in SCALES:
        maps = torch.cat([local_contrast(part.float() / 255, scale) for part in group.images.split(64)])
        rows.append(group.means({"I": maps.flatten(1).amax(1)}, maps))
    return {name: max(row[name] for row in rows) for name in rows[0]}


def evaluate(backbone: Backbone, groups: dict[str, Group]) -> dict[str, dict[str, float]]:
    """I, C and P of every group."""
    text = prompts(backbone)
    table = {}
    for spec, group in groups.items():
        joint, cls, maps = scores(backbone, group.images, text)
        table[spec] = group.means({"I": joint, "C": cls}, maps)
    return table


def markdown(floors: dict[str, dict[str, float]], tables: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row for each set, I / C / P of every backbone, and the floor."""
    lines = ["| set | floor I / P | " + " | ".join(f"{name} I / C / P" for name in tables) + " |"]
    lines.append("|---" * (2 + len(tables)) + "|")
    for spec, low in floors.items():
        cells = [f"{t[spec]['I']:.3f} / {t[spec]['C']:.3f} / {t[spec]['P']:.3f}" for t in tables.values()]
        lines.append(f"| `{spec}` | {low['I']:.3f} / {low['P']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["mini"], help="embedded backbones, or weight files of theirs")
    parser.add_argument("--folders", nargs="+", type=Path, help="categories in MVTec's layout, instead of the worlds")
    parser.add_argument("--sets", nargs="+", choices=SPECS, default=SPECS)
    parser.add_argument("--per-category", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0, help="of the sets")
    parser.add_argument("--floor-only", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.folders:
        groups = {folder.name: Group.read(folder, device) for folder in args.folders}
    else:
        groups = {spec: Group.made(spec, args.per_category, device, args.seed) for spec in args.sets}
    floors = {spec: floor(group) for spec, group in groups.items()}
    tables = {}
    for name in [] if args.floor_only else args.names:
        path = Path(name)
        backbone = load("mini", path, device=device) if path.is_file() else load(name, device=device)
        tables[name] = evaluate(backbone, groups)
    table = markdown(floors, tables)
    print(table)
    if args.out:
        args.out.write_text(f"{table}\n")


if __name__ == "__main__":
    main()
