"""Which recipe makes a backbone worth looking into: every recipe of ``mini_pretrain.py`` for the same time, one table.

    python analyses/mini_recipes.py --recipes dense light contrastive --seconds 170 --out runs/recipes

For each: what it localises and recognises on held-out categories; how much a single head does (relative L1 change of
the anomaly map when it is silenced, and change of the joint score), by depth; and what learned head weights gain.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from mini_eval import Group, evaluate, floor, prompts, scores
from mini_pretrain import LOCAL, RECIPES, TAPS, dense_loss, normalised, train
from torch import Tensor

from headlens.backbone import Backbone, VisionPlan, load
from headlens.data.procedural.worlds import SPECS
from headlens.detectors.scoring import Margins, Scoring
from headlens.detectors.text import Pair


@torch.no_grad()
def single_heads(backbone: Backbone, images: Tensor, batch: int = 256) -> dict[str, Tensor]:
    """Every head of both streams silenced alone: mean relative L1 of the map, and mean |change| of the joint score.

    Args:
        backbone: to look into.
        images: [n, 3, S, S] uint8.
        batch: images with a gate each, at once.

    Returns:
        ``{"map": [2, L, H], "score": [2, L, H]}``; local heads before the local stream begins are NaN.
    """
    text, cfg = prompts(backbone), backbone.vision.cfg
    size = (images.shape[2], images.shape[3])

    def read(image: Tensor, gates: dict[str, Tensor], n: int) -> tuple[Tensor, Tensor]:
        out = backbone.vision(image.expand(n, -1, -1, -1), VisionPlan(TAPS, LOCAL), gates=gates, hooked=False)
        taps = {tap: Pair(text).margin(tokens) for tap, tokens in out.patches.items()}
        margins = Margins(Pair(text).margin(out.embedding), taps)
        maps = Scoring().patch_maps(margins, backbone.vision.grid(*size))
        return maps, Scoring().joint(margins.image, maps)

    heads = [(s, layer, h) for s in (0, 1) for layer in range(cfg.n_layers) for h in range(cfg.n_heads)]
    heads = [head for head in heads if head[0] == 0 or head[1] >= LOCAL.start]
    effects = {name: torch.full((2, cfg.n_layers, cfg.n_heads), torch.nan) for name in ("map", "score")}
    sums: dict[str, list[Tensor]] = {name: [] for name in effects}
    for image in normalised(images.float() / 255):
        plain_map, plain_score = read(image, {}, 1)
        rows: dict[str, list[Tensor]] = {name: [] for name in effects}
        for start in range(0, len(heads), batch):
            part = heads[start : start + batch]
            gates = torch.ones(2, len(part), cfg.n_layers, cfg.n_heads, device=images.device)
            for row, (stream, layer, head) in enumerate(part):
                gates[stream, row, layer, head] = 0
            maps, joint = read(image, dict(zip(("global", "local"), gates, strict=True)), len(part))
            rows["map"].append(((maps - plain_map).abs().sum((1, 2)) / plain_map.abs().sum()).cpu())
            rows["score"].append((joint - plain_score).abs().cpu())
        for name in effects:
            sums[name].append(torch.cat(rows[name]))
    index = torch.tensor(heads).unbind(1)
    for name, values in sums.items():
        effects[name][index] = torch.stack(values).mean(0)
    return effects


def fit_head_weights(
    backbone: Backbone, aux: Group, steps: int = 150, batch: int = 32, rate: float = 5e-3, seed: int = 0
) -> dict[str, Tensor]:
    """Head weights [L, H] of both streams, learned on an auxiliary set with the hand-written prompts held fixed."""
    cfg, text = backbone.vision.cfg, prompts(backbone)
    device = aux.images.device
    weights = {s: torch.ones(cfg.n_layers, cfg.n_heads, device=device, requires_grad=True) for s in ("global", "local")}
    optimizer = torch.optim.Adam(list(weights.values()), rate, (0.5, 0.999))
    generator = torch.Generator(device).manual_seed(seed)
    patches = F.adaptive_avg_pool2d(aux.masks.float()[:, None], backbone.vision.grid(*aux.images.shape[2:])).flatten(1)
    label = aux.masks.flatten(1).any(1).float()
    for _ in range(steps):
        pick = torch.randint(len(aux.images), (batch,), device=device, generator=generator)
        images = normalised(aux.images[pick].float() / 255)
        out = backbone.vision(images, VisionPlan(TAPS, LOCAL, weights), hooked=False)
        loss = F.binary_cross_entropy_with_logits(Pair(text).margin(out.embedding), label[pick])
        for tokens in out.patches.values():
            loss = loss + dense_loss(Pair(text).margin(tokens), patches[pick]) / len(TAPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {stream: value.detach() for stream, value in weights.items()}


def gain(backbone: Backbone, groups: dict[str, Group], domain: str) -> dict[str, float]:
    """What head weights learned on ``domain``'s auxiliary set change on its unseen categories."""
    test, text = groups[f"procedural:{domain}"], prompts(backbone)
    weights = fit_head_weights(backbone, groups[f"procedural:{domain}/aux"])
    change = {}
    for name, options in (("without", {}), ("with", {"head_weights": weights})):
        joint, _, maps = scores(backbone, test.images, text, **options)
        change[name] = test.means({"I": joint}, maps)
    return {key: change["with"][key] - change["without"][key] for key in ("I", "P")}


def study(backbone: Backbone, groups: dict[str, Group], images: int) -> dict:
    """One row of the table, and the full head grids."""
    row: dict = {"evaluation": evaluate(backbone, groups)}
    for domain in ("industrial", "medical"):
        row[f"gain {domain}"] = gain(backbone, groups, domain)
        pictures = groups[f"procedural:{domain}"].images
        effects = single_heads(backbone, pictures[:: max(1, len(pictures) // images)][:images])
        row[f"heads {domain}"] = {name: grid.tolist() for name, grid in effects.items()}
    return row


def table(rows: list[dict]) -> str:
    """One line for each recipe; head effects are the largest in blocks 0-5, 6-11, 12-17, 18-23."""
    head = (
        "| recipe | industrial seen | unseen | medical seen | unseen | map effect | score effect | gain ind. | med. |"
    )
    lines = [head, "|---" * 9 + "|"]
    for row in rows:
        cells = [
            "{I:.2f} / {P:.3f}".format(**row["evaluation"][f"procedural:{domain}{split}"])
            for domain in ("industrial", "medical")
            for split in ("/seen", "")
        ]
        for name, digits in (("map", 3), ("score", 3)):
            both = torch.tensor([row[f"heads {domain}"][name][0] for domain in ("industrial", "medical")]).mean(0)
            cells.append(" ".join(f"{float(part.max()):.{digits}f}" for part in both.split(6)))
        cells += [f"{row[f'gain {domain}']['P']:+.3f}" for domain in ("industrial", "medical")]
        lines.append(f"| {row['recipe']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--weights", nargs="*", type=Path, default=[], help="files to study instead of training")
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table of rows written earlier")
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--pool", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-category", type=int, default=40)
    parser.add_argument("--head-images", type=int, default=12, help="of each domain, for single-head effects")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    args = parser.parse_args()
    if args.table:
        print(table([json.loads(path.read_text()) for path in args.table]))
        return
    device, started = torch.device(args.device), time.monotonic()
    groups = {spec: Group.made(spec, args.per_category, device, seed=1) for spec in SPECS}
    floors = {spec: floor(group) for spec, group in groups.items()}
    print(json.dumps({"sets made in": time.monotonic() - started, "floors": floors}), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    named = [(path.stem, path) for path in args.weights] or [(recipe, None) for recipe in args.recipes]
    for name, path in named:
        if path is None:
            recipe = replace(RECIPES[name], pool=args.pool)
            backbone = train(recipe, args.seconds, 1e9, args.seed, args.out / f"{name}-{args.seed}", device)
        else:
            backbone = load("mini", path, device=device)
        row = {"recipe": name, "seed": args.seed, "floors": floors, **study(backbone, groups, args.head_images)}
        print(name, json.dumps(row["evaluation"]), row["gain industrial"], row["gain medical"], flush=True)
        (args.out / f"{name}-{args.seed}.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main()
