"""What adapting buys on a backbone: detectors trained on auxiliary sets, tested on unseen categories.

    python analyses/captions_detectors.py runs/captions/open_clip_model.safetensors --seeds 0 --out runs/detectors.json

Never read while a recipe is chosen. Hand-written prompts; head weights alone; AnomalyCLIP; HeadCLIP; and a linear map
for each tap between patches and hand-written prompts (APRIL-GAN's kind). Everything in memory, batches of 8. Last, how
much the class token could say: image AUROC of a logistic regression on it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from mini_eval import Group
from mini_pretrain import normalised
from torch import Tensor, nn

from headlens.backbone import Backbone, load
from headlens.detectors import Detector, build, preset
from headlens.detectors.losses import objective
from headlens.detectors.scoring import Prediction
from headlens.detectors.stages import Answers

DOMAINS = ("industrial", "medical")
METHODS = {
    "hand-written prompts": preset("headclip", prompts="ensemble", head_weights="none"),
    "head weights alone": preset("headclip", prompts="ensemble", streams=("global", "local")),
    "AnomalyCLIP": preset("headclip", head_weights="none"),
    "HeadCLIP": preset("headclip"),
    "linear map": preset("headclip", prompts="ensemble", head_weights="none"),
}
"""All are read in the same way (joint score, four taps), so that they differ by what is learned alone."""


class Mapped(nn.Module):
    """A detector whose patches go through a linear map of each tap first; maps begin as the identity."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        d, device = detector.backbone.vision.proj.shape[1], detector.device
        self.maps = nn.ModuleList(nn.Linear(d, d, bias=False, device=device) for _ in detector.plan.taps)
        for own in self.maps:
            nn.init.eye_(own.weight)

    def forward(self, images: Tensor) -> Prediction:
        """Normalised images [B, 3, h, w] to scores."""
        with torch.no_grad():
            reading = self.detector.reading(images)
            features = reading.features(self.detector.see(images, reading))
        moved = {tap: own(features.taps[tap]) for tap, own in zip(features.taps, self.maps, strict=True)}
        margins = reading.margins(replace(features, taps=moved))
        return self.detector.score(margins, (images.shape[2], images.shape[3]))


def trained(model: nn.Module, aux: Group, seed: int, epochs: int, batch: int = 8) -> None:
    """AnomalyCLIP's objective and the trainer's rates; a model without anything to learn stays as it is."""
    heads = [p for name, p in model.named_parameters() if name.startswith("weights.")]
    known = set(map(id, heads))
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": own, "lr": lr} for own, lr in ((others, 1e-3), (heads, 5e-3)) if own]
    if not groups:
        return
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999))
    generator = torch.Generator().manual_seed(seed)
    label = aux.masks.flatten(1).any(1).long().cpu()
    for _ in range(epochs):
        for pick in torch.randperm(len(aux.images), generator=generator).split(batch):
            found = model(normalised(aux.images[pick].float() / 255))
            answers = Answers(label[pick], aux.masks[pick], torch.ones(len(pick), dtype=torch.bool))
            terms = objective(found, answers)
            optimizer.zero_grad()
            (terms["image"] + 4 * terms["pixel"]).backward()
            optimizer.step()


@torch.no_grad()
def tested(model: Callable[[Tensor], Prediction], group: Group) -> dict[str, float]:
    """Image AUROC (joint score) and pixel AUROC, each the mean over categories."""
    found = [model(normalised(part.float() / 255)) for part in group.images.split(40)]
    maps = torch.cat([own.anomaly_map for own in found])
    return group.means({"I": torch.cat([own.joint_score for own in found])}, maps)


def probed(backbone: Backbone, aux: Group, test: Group, steps: int = 300, decay: float = 0.1) -> dict[str, float]:
    """Image AUROC of a logistic regression from the class token to the label, trained on ``aux``: what it could say."""

    def tokens(group: Group) -> Tensor:
        parts = [backbone.vision(normalised(part.float() / 255), hooked=False) for part in group.images.split(40)]
        return torch.cat([F.normalize(part.embedding, dim=-1) for part in parts])

    with torch.no_grad():
        seen, asked = tokens(aux), tokens(test)
    mean, deviation = seen.mean(0), seen.std(0) + 1e-4
    label = aux.masks.flatten(1).any(1).float()
    layer = nn.Linear(seen.shape[1], 1, device=seen.device)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(steps):
        logits = layer((seen - mean) / deviation)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, label) + decay * layer.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = layer((asked - mean) / deviation)[:, 0]
    return {"I": test.means({"I": score}, test.masks.float())["I"]}


def compare(backbone: Backbone, aux: Group, test: Group, seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """Every method, trained with one seed on one auxiliary set."""
    rows = {}
    for name, config in METHODS.items():
        torch.manual_seed(seed)
        detector = build(backbone, config, seed).to(backbone.logit_scale.device)
        model = Mapped(detector) if name == "linear map" else detector
        trained(model, aux, seed, epochs)
        rows[name] = tested(model, test)
        print(name, {key: round(value, 4) for key, value in rows[name].items()}, flush=True)
    rows["class token, logistic regression"] = probed(backbone, aux, test)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a weight file, or the name of an embedded backbone")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=DOMAINS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--per-category", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    path, device = Path(args.weights), torch.device(args.device)
    backbone = load("mini", path, device=device) if path.is_file() else load(args.weights, device=device)
    rows: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for domain in args.domains:
        test = Group.made(f"procedural:{domain}", args.per_category, device)
        for seed in args.seeds:
            aux = Group.made(f"procedural:{domain}/aux", args.per_category, device, seed=seed)
            print(domain, seed, flush=True)
            rows.setdefault(domain, {})[str(seed)] = compare(backbone, aux, test, seed, args.epochs)
    args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
