"""Which of HeadCLIP's open choices matter: every alternative, trained with three seeds in both domains.

    python analyses/headclip_choices.py --out runs/choices --jobs 8
    python analyses/headclip_choices.py --out runs/choices --tables

Every run is trained on a procedural ``aux`` set, painted anew for its seed, and tested on categories of both domains
that nothing has been trained on. Runs that are there already are not made again. Tables are means over seeds with 95 %
intervals by Student's t, of a value or of the difference to the default with the same seed and images.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd
import torch
from trained_runs import DOMAINS, NOTHING, Choices, Painted, Task, arguments, cell, collected, floor, run_all, test

from headlens.detectors import Detector
from headlens.metrics.image import image_metrics
from headlens.training.evaluation import Evaluation, Scorer, evaluate

HEADCLIP = "headclip"
UNWEIGHTED = "head weights: none"  # and read by CLS alone, this is AnomalyCLIP with several taps
CHOICES: Choices = {
    "clip": ("clip", {}, {}),
    HEADCLIP: ("headclip", {}, {}),
    UNWEIGHTED: ("headclip", {"head_weights": "none"}, {}),
    "epochs: 15": ("headclip", {}, {"epochs": 15}),
    "head weights: sigmoid": ("headclip", {"head_weights": "sigmoid"}, {}),
    "head weights: softmax": ("headclip", {"head_weights": "softmax"}, {}),
    "head weights: a fifth of the learning rate": ("headclip", {}, {"lr_heads": 1e-3}),
    "weighted: global stream": ("headclip", {"streams": ("global",)}, {}),
    "weighted: both streams": ("headclip", {"streams": ("global", "local")}, {}),
    "anomalyclip-published": ("anomalyclip-published", {}, {}),
    "prompts: hand-written": ("headclip", {"prompts": "ensemble"}, {}),
    "prompts: with the category's name": ("headclip", {"class_aware": True}, {}),
    "deep prompts: none": ("headclip", {"deep": 0}, {}),
    "deep prompts: blocks 1 to 4": ("headclip", {"deep": 4}, {}),
    "taps: 23": ("headclip", {"taps": (23,)}, {}),
    "taps: 5, 11": ("headclip", {"taps": (5, 11)}, {}),
    "taps: 17, 23": ("headclip", {"taps": (17, 23)}, {}),
}
ROWS = {
    "clip": ("clip", "joint"),
    "anomalyclip-published": ("anomalyclip-published", "joint"),
    "anomalyclip": (UNWEIGHTED, "image"),
    "headclip without head weights": (UNWEIGHTED, "joint"),
    "headclip without joint score": (HEADCLIP, "image"),
    "headclip": (HEADCLIP, "joint"),
}
"""Of the table of methods: which runs, and which of their scores decides about the image."""
TOPS = (0.001, 0.01, 0.05)
COLUMNS = {("joint", "auroc"): "I", ("pixel", "auroc"): "P", ("pixel", "aupro"): "PRO"}


def read_otherwise(detector: Scorer, sets: list[Painted], choice: str) -> Evaluation:
    """On the unseen categories of both domains; of the default, other readings of a joint score, too."""
    if choice != HEADCLIP or not isinstance(detector, Detector):
        return test(detector, sets)
    parts = []
    for dataset in sets:
        part = evaluate(detector, dataset, batch=40)
        scores = part.scores.assign(top0=part.scores["map"])
        for top in TOPS:
            other = detector.with_config(alpha=1.0, pool="top", top=top)
            scores[f"top{top:g}"] = evaluate(other, dataset, batch=40).scores["joint"]
        parts.append(replace(part, frame=pd.concat([part.frame, readings(scores)]), scores=scores))
    return Evaluation.joined(parts)


def readings(scores: pd.DataFrame) -> pd.DataFrame:
    """Image AUROC of ``(1 - alpha) image + alpha pooled map``, for each alpha and pooling, per category."""
    rows = []
    for keys, own in scores.groupby(["domain", "dataset", "category"], sort=False):
        labels = torch.tensor(own["anomalous"].astype(int).to_numpy())
        for top in (0, *TOPS):
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
                joint = torch.tensor(((1 - alpha) * own["image"] + alpha * own[f"top{top:g}"]).to_numpy())
                value = float(image_metrics(joint, labels)["auroc"])
                rows.append((*keys, f"alpha {alpha:g}, top {top:g}", "auroc", value))
    return pd.DataFrame(rows, columns=["domain", "dataset", "category", "score", "metric", "value"])


def methods_table(frame: pd.DataFrame) -> str:
    """Absolute values, trained and tested in either domain."""
    heads = ["I", "I of the map", "P", "PRO"]
    pixel = list(COLUMNS)[1:]
    lines = ["| tested on | trained on | method | " + " | ".join(heads) + " |", "|---|---|---|" + "---:|" * len(heads)]
    values = frame.set_index(["choice", "tested", "trained", "score", "metric"])["value"].sort_index()
    for tested in DOMAINS:
        lines.append(f"| {tested} | - | chance | 50.0 | 50.0 | 50.0 | 15.0 |")
        columns = (("joint", "auroc"), ("map", "auroc"), *pixel)
        cells = [cell([value]) for value in floor(values, tested, columns)]
        lines.append(f"| {tested} | - | local contrast | " + " | ".join(cells) + " |")
        for trained in (NOTHING, *DOMAINS):
            for row, (choice, score) in ROWS.items():
                if (choice, tested, trained) not in values.index.droplevel([3, 4]):
                    continue
                own = values.loc[choice, tested, trained]
                cells = [cell(own.loc[[c]]) for c in ((score, "auroc"), ("map", "auroc"), *pixel)]
                words = "-" if trained == NOTHING else trained
                lines.append(f"| {tested} | {words} | {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def choices_table(frame: pd.DataFrame) -> str:
    """Differences to the default, tested in the domain of training."""
    heads = [f"{domain} {name}" for domain in DOMAINS for name in COLUMNS.values()]
    lines = ["| choice | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    own = frame[frame["trained"] == frame["tested"]]
    values = own.set_index(["tested", "score", "metric", "choice", "seed"])["value"].sort_index()
    for choice in CHOICES:
        if choice not in set(own["choice"]):
            continue
        cells = []
        for domain in DOMAINS:
            for column in COLUMNS:
                default = choice == HEADCLIP
                if (domain, *column, choice) not in values.index.droplevel(4):  # not finished
                    cells.append("-")
                    continue
                found = values.loc[(domain, *column, choice)]
                change = found if default else (found - values.loc[(domain, *column, HEADCLIP)]).dropna()
                cells.append(cell(change, "" if default else "+"))
        lines.append(f"| {'the default' if choice == HEADCLIP else choice} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readings_table(frame: pd.DataFrame) -> str:
    """Image AUROC of the default's joint score, read in other ways; differences to CLS alone."""
    own = frame[(frame["choice"] == HEADCLIP) & (frame["metric"] == "auroc")]
    alphas = (0.25, 0.5, 0.75, 1.0)
    lines = ["| tested on | trained on | pooling | " + " | ".join(f"α = {a:g}" for a in alphas) + " |"]
    lines.append("|---|---|---|" + "---:|" * len(alphas))
    for tested in DOMAINS:
        for trained in DOMAINS:
            part = own[(own["tested"] == tested) & (own["trained"] == trained)].set_index(["score", "seed"])["value"]
            for top in (0, *TOPS):
                cells = [cell(part[f"alpha {a:g}, top {top:g}"] - part["image"], "+") for a in alphas]
                words = "max" if not top else f"top {100 * top:g} %"
                lines.append(f"| {tested} | {trained} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    args = arguments(__doc__, CHOICES, "runs/choices").parse_args()
    if not args.tables:
        trained = [choice for choice in args.choices if choice != "clip"]
        untrained = [Task("clip", 0, NOTHING)] if "clip" in args.choices else []
        run_all(
            args,
            CHOICES,
            [*untrained, *(Task(*each) for each in product(trained, args.seeds, DOMAINS))],
            read_otherwise,
        )
    frame = collected(args.out, CHOICES)
    tables = [methods_table(frame), choices_table(frame), readings_table(frame)]
    print("\n\n".join(tables))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
