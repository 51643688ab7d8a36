"""Makes the runs that ship on ``mini-captions`` of those that ``family_comparison.py`` trained.

    python analyses/ship_runs.py runs/family

Each run's folder is copied under its shipped name, its card says which preset and which procedural images it had, and
``SHA256SUMS`` is written anew. Tensors of methods that learn matrices are rounded to half precision, which
the card says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from trained_runs import DOMAINS, slug

from headlens.training import shipped

HERE = Path(shipped.__file__).parent
FILES = ("card.json", "config.toml", "log.csv", "model.safetensors")
# By choice of family_comparison.py: what follows the domain in the name, the preset, how many seeds.
RUNS = {
    "HeadCLIP": ("", "headclip", 10),
    "AnomalyCLIP": ("-anomalyclip", "headclip", 5),
    "HeadCLIP without deep prompts": ("-shallow", "headclip", 5),
    "head weights alone, local": ("-weights", "headclip", 5),
    "APRIL-GAN": ("-april-gan", "april-gan", 5),
    "AA-CLIP at its published rates": ("-aa-clip", "aa-clip", 5),
    "KAnoCLIP": ("-kanoclip", "kanoclip", 5),
}
ROUNDED = ("april-gan", "aa-clip", "kanoclip")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ship(source: Path, target: Path, preset: str, per_category: int) -> None:
    """One run: ``source`` as ``family_comparison.py`` left it, ``target`` as it ships."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    model, card = target / "model.safetensors", json.loads((source / "card.json").read_text(encoding="utf-8"))
    if preset in ROUNDED:
        card |= {"trained_model_sha256": digest(model), "stored": "float16, rounded after training"}
        tensors = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(model).items()
        }
        save_file(tensors, model)
    card |= {"preset": preset, "procedural": {"per_category": per_category, "seed": card["seed"]}}
    card["model_sha256"] = digest(model)
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder that family_comparison.py wrote")
    parser.add_argument("--per-category", type=int, default=40, help="images that a run was trained on")
    args = parser.parse_args()
    for choice, (suffix, preset, seeds) in RUNS.items():
        for domain in DOMAINS:
            for seed in range(seeds):
                target = HERE / f"{shipped.BACKBONE}-{domain}{suffix}-{seed}"
                ship(args.runs / domain / f"{slug(choice)}-{seed}", target, preset, args.per_category)
    folders = sorted(path.parent for path in HERE.glob("*/config.toml"))
    lines = [f"{digest(folder / name)}  {folder.name}/{name}\n" for name in FILES[1::-1] for folder in folders]
    (HERE / "SHA256SUMS").write_text("".join(lines), encoding="ascii")


if __name__ == "__main__":
    main()
