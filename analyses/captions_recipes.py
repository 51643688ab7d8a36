"""Which recipe of sentences: measured on categories that the compared recipes have not seen, and chosen by a rule.

    python analyses/captions_recipes.py runs/compared-*/open_clip_model.safetensors --out runs/recipes
    python analyses/captions_recipes.py --table runs/recipes/*.json

No detector is trained here, nothing is tested on the worlds' test sets, and the rules (``chosen`` for the first cycle,
``chosen_second`` for the second) were written down before any run of theirs; docs/captions-backbone.md says why they
are as they are.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from captions_pretrain import RECIPES, VALIDATION, Captioned, losses, say
from captions_scenes import MARK, NAMES, SHARP, STATE, SceneBatch, Scenes
from captions_words import Scribe, share_named
from mini_eval import Group, evaluate, floor
from mini_pretrain import LOCAL, TAPS, normalised
from torchmetrics.functional.classification import binary_auroc

from headlens.backbone import Backbone, VisionPlan, load
from headlens.data.procedural.worlds import World

MOST_NAMED = 0.2  # of a recipe's sentences may name a state or a flaw
NEAR = 0.02  # of one seed each; recipes whose scores are this near are alike: that which names states least is taken
DOMAINS = ("industrial", "medical")


def validation(per_category: int, device: torch.device, seed: int = 7) -> dict[str, Group]:
    """Images of ``VALIDATION``, half of them with flaws, by domain."""
    groups = {}
    for domain in DOMAINS:
        spec = f"procedural:{domain}/seen"
        every = Group.made(spec, per_category, device, seed)
        names = World(spec, per_category).categories
        own = torch.tensor([number for number, name in enumerate(names) if name in VALIDATION], device=device)
        keep = torch.isin(every.category, own)
        groups[domain] = Group(every.images[keep], every.masks[keep], every.category[keep])
    return groups


@torch.no_grad()
def marks(backbone: Backbone, batch: SceneBatch, things: list[str]) -> float:
    """How well a mark is found that a sentence names: patch AUROC of its map, the mean over images with marks."""
    tokens = backbone.tokenizer(things).to(backbone.logit_scale.device)
    text = backbone.encode_text(tokens, normalize=True)
    first = len(batch.shares)
    out = backbone.vision(normalised(batch.images[:first]), VisionPlan(TAPS, LOCAL), hooked=False)
    maps = torch.stack([F.normalize(tokens, dim=-1) @ text.T for tokens in out.patches.values()]).mean(0)
    rows = []
    for row in range(first):
        column = len(NAMES) + int(batch.attributes[row, MARK])
        truth = batch.shares[row, column].flatten() > 0.25
        if column >= len(NAMES) and bool(truth.any()):
            own = maps[row] - maps[row].mean(1, keepdim=True)  # against everything else that might be there
            rows.append(float(binary_auroc(own[:, column], truth.long())))
    return sum(rows) / max(1, len(rows))


@torch.no_grad()
def sentences(backbone: Backbone, scenes: Scenes, scribe: Scribe, batches: int, n: int) -> dict[str, float]:
    """CLIP's loss; retrieval, how often the nearest of ``n`` images is one that the sentence is true of; marks."""
    sums = dict.fromkeys(("loss", "retrieval", "marks"), 0.0)
    plain = Captioned(dense=0.0)
    for _ in range(batches):
        batch = scenes.batch(n)
        said, stated = scribe.sentences(batch.attributes)
        device = batch.images.device
        texts = F.normalize(backbone.text(scribe.tokens(said, device), hooked=False).float(), dim=-1)
        embedding = F.normalize(backbone.vision(normalised(batch.images), hooked=False).embedding.float(), dim=-1)
        best = (texts @ embedding.T).argmax(1).cpu()
        right = ((batch.attributes == batch.attributes[best]) | ~stated).all(1)
        sums["retrieval"] += float(right.float().mean())
        sums["marks"] += marks(backbone, batch, scribe.things())
        sums["loss"] += float(losses(backbone, batch, say(batch, scribe, False), plain, False)["clip"])
    return {name: total / batches for name, total in sums.items()}


def measured(backbone: Backbone, recipe: Captioned, groups: dict[str, Group], scenes: Scenes) -> dict[str, Any]:
    """Everything that the rules read; ``named`` with as many anomalous images as the recipe has."""
    about = Scribe(backbone.tokenizer, 1, 0.0, general=True)  # the categories' names are unknown to it
    row: dict[str, Any] = sentences(backbone, scenes, about, batches=6, n=256)
    described, naming = scenes.described(4000), Scribe(backbone.tokenizer, 2, recipe.named)
    with_flaw = described[:, STATE] == 1
    row["named"] = recipe.flawed * share_named(naming, described[with_flaw])
    row["named"] += (1 - recipe.flawed) * share_named(naming, described[~with_flaw])
    found = evaluate(backbone, groups)
    row["maps"] = {domain: found[domain]["P"] for domain in groups}
    row["images"] = {domain: found[domain]["I"] for domain in groups}
    row["floor"] = {domain: floor(group)["P"] for domain, group in groups.items()}
    return row


def score(row: dict[str, Any]) -> float:
    """The mean of retrieval, marks and the maps of hand-written prompts: three shares of what can be right."""
    return (row["retrieval"] + row["marks"] + sum(row["maps"].values()) / len(row["maps"])) / 3


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule: of recipes that name states seldom and whose score is within ``NEAR`` of the best, the rarest naming.

    Between equals, the lower loss.

    Raises:
        SystemExit: no recipe qualifies.
    """
    able = [row for row in rows if row["named"] <= MOST_NAMED]
    if not able:
        raise SystemExit("no recipe names states seldom: none is chosen")
    best = max(map(score, able))
    alike = [row for row in able if score(row) >= best - NEAR]
    return min(alike, key=lambda row: (round(row["named"], 2), row["loss"]))


def chosen_second(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule of the second cycle, whose recipes may name states more often, because the first lacked image scores.

    Of recipes whose maps are at least as good as the floor in both domains, those whose mean image AUROC is within
    ``NEAR`` of the best; of these, the rarest naming.

    Raises:
        SystemExit: no recipe qualifies.
    """

    def images(row: dict[str, Any]) -> float:
        return sum(row["images"].values()) / len(row["images"])

    able = [row for row in rows if all(row["maps"][domain] >= low for domain, low in row["floor"].items())]
    if not able:
        raise SystemExit("no recipe's maps reach the floor: none is chosen")
    best = max(map(images, able))
    return min(
        (row for row in able if images(row) >= best - NEAR), key=lambda row: (round(row["named"], 2), row["loss"])
    )


def recipe_of(about: dict[str, Any]) -> str:
    """The name of the recipe that a run's ``training.json`` describes; pools may be of another size.

    Raises:
        SystemExit: it is no recipe of today.
    """
    given = {name: value for name, value in about["recipe"].items() if name not in ("pool", "fresh", "batch")}
    for name, recipe in RECIPES.items():
        known = json.loads(json.dumps(asdict(recipe)))
        if all(known[field] == value for field, value in given.items()):
            return name
    raise SystemExit(f"no recipe of captions_pretrain.py is {given}")


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each recipe; images are shown, and not read by the rule."""
    lines = [
        "| recipe | named | views | loss | retrieval | marks | maps ind. / med. | floor | score | images ind. / med. |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        pair = {key: " / ".join(f"{row[key][domain]:.3f}" for domain in DOMAINS) for key in ("maps", "floor", "images")}
        lines.append(
            f"| {row['recipe']} | {row['named']:.3f} | {row.get('views', 0) / 1e6:.2f} M | {row['loss']:.3f} "
            f"| {row['retrieval']:.3f} | {row['marks']:.3f} | {pair['maps']} | {pair['floor']} | {score(row):.3f} "
            f"| {pair['images']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="*", type=Path, help="of runs; training.json beside them says which recipe")
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table and the choice of rows")
    parser.add_argument("--second", action="store_true", help="by the rule of the second cycle")
    parser.add_argument("--per-category", type=int, default=60)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    if args.weights:
        groups = validation(args.per_category, device)
        pool = 8 * len(VALIDATION) * args.per_category // 2
        for path in args.weights:
            scenes = Scenes(args.size, pool, 40, 4711, device, names=VALIDATION, shapes=SHARP)  # the same for all
            scenes.fill()
            about = json.loads((path.parent / "training.json").read_text())
            name = recipe_of(about)
            row = {"recipe": name, "views": about["images"], "seconds": about["seconds"]}
            row |= measured(load("mini", path, device=device), RECIPES[name], groups, scenes)
            (args.out / f"{name}.json").write_text(json.dumps(row, indent=1))
    rows = [json.loads(path.read_text()) for path in args.table or sorted(args.out.glob("*.json"))]
    print(table(rows))
    print(f"chosen: {(chosen_second if args.second else chosen)(rows)['recipe']}")


if __name__ == "__main__":
    main()
