"""What OFF-CLIP's term and its sentences change among normal images: false positives on the medical world.

    python analyses/off_clip.py --model mini-captions --seeds 0 1 2 3 4 --out runs/off-clip --jobs 8 --device cuda
    python analyses/off_clip.py --out runs/off-clip --tables

Every run is trained on procedural:medical/aux, painted anew for its seed, and tested on organs that neither it nor the
backbone has seen, in both domains. Choices differ in the training's ``off_diagonal``, in whether prompts say
"There is no finding." and "There is <finding>.", or in both. ``lora`` tunes the image tower instead of prompts. As a
control, the loss of the image has twice its weight: the term, too, is one about images.

False positives are counted where 95 % of a category's anomalous images are found, at the threshold with the best
Youden's J, which is that of the authors, and at 0.5, where normal and abnormal are as likely; the first two thresholds
are those of the test images themselves. Values are means over categories and seeds with 95 % intervals by Student's t;
differences are between runs of one seed, and so paired.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from trained_runs import Choices, Painted, Task, arguments, cell, collected, run_all

from headlens.data.procedural import World
from headlens.data.procedural.catalogue import FAMILY_WORDS
from headlens.training.evaluation import Evaluation, Scorer, evaluate

DOMAIN = "medical"
_AUX = World(f"procedural:{DOMAIN}/aux")
FINDINGS = tuple(FAMILY_WORDS[name][0] for name in sorted({f for c in _AUX.categories for f in _AUX.families(c)}))
"""What is found in the auxiliary set, in the words of its captions."""
OFF, SAID = {"off_diagonal": 1.0}, {"findings": FINDINGS}
_LORA = {"real": "no finding", "generated": "a finding"}  # C2P-CLIP's phrases
BASES: dict[str, tuple[str, dict[str, object]]] = {
    "HeadCLIP": ("headclip", {}),
    "AnomalyCLIP": ("headclip", {"head_weights": "none"}),
    "lora": ("c2p-clip", _LORA),
}
CHOICES: Choices = {
    **{name: (preset, dict(changes), {}) for name, (preset, changes) in BASES.items()},
    **{f"{name}, off-diagonal": (preset, dict(changes), dict(OFF)) for name, (preset, changes) in BASES.items()},
    **{
        f"{name}, {words}": (preset, {**changes, **SAID}, dict(training))
        for name, (preset, changes) in list(BASES.items())[:2]
        for words, training in (("findings", {}), ("off-diagonal and findings", OFF))
    },
    **{
        f"{name}, image loss x 2": (preset, dict(changes), {"pixel_weight": 2.0})  # of which Adam sees the ratio alone
        for name, (preset, changes) in list(BASES.items())[:2]
    },
    "AnomalyCLIP, off-diagonal x 4": ("headclip", {"head_weights": "none"}, {"off_diagonal": 4.0}),
}
COLUMNS = {
    "FPR at 95 %": "fpr95",
    "FPR at J": "fpr_j",
    "TPR at J": "tpr_j",
    "FPR at 0.5": "fpr_half",
    "TPR at 0.5": "tpr_half",
    "AUROC": "auroc",
}
SCORES = ("joint", "image")


def rates(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Shares of normal and of anomalous images above three thresholds.

    Args:
        scores: [n], higher is more anomalous.
        labels: [n] bool, some of either.
    """
    normal, anomalous = np.sort(scores[~labels]), np.sort(scores[labels])
    missed = int(np.floor(0.05 * len(anomalous)))  # at most so many
    every = np.unique(scores)
    tpr, fpr = ((own[None] >= every[:, None]).mean(1) for own in (anomalous, normal))
    best = int(np.argmax(tpr - fpr))
    return {
        "fpr95": float((normal >= anomalous[missed]).mean()),
        "fpr_j": float(fpr[best]),
        "tpr_j": float(tpr[best]),
        "fpr_half": float((normal > 0.5).mean()),
        "tpr_half": float((anomalous > 0.5).mean()),
    }


def tested(detector: Scorer, sets: list[Painted], choice: str) -> Evaluation:
    """All metrics on the unseen categories of both domains, and the rates."""
    parts = []
    for dataset in sets:
        part = evaluate(detector, dataset, batch=40)
        parts.append(replace(part, frame=pd.concat([part.frame, _rates(part.scores)])))
    return Evaluation.joined(parts)


def _rates(scores: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for keys, own in scores.groupby(["domain", "dataset", "category"], sort=False):
        labels = own["anomalous"].to_numpy().astype(bool)
        for score in SCORES:
            found = rates(own[score].to_numpy(), labels)
            rows += [(*keys, score, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["domain", "dataset", "category", "score", "metric", "value"])


def _values(frame: pd.DataFrame, tested_on: str, score: str) -> dict[str, pd.DataFrame]:
    """A row for each seed and a column for each of ``COLUMNS``, by choice."""
    own = frame[(frame["tested"] == tested_on) & (frame["score"] == score) & (frame["trained"] == DOMAIN)]
    wide = own.pivot_table(index=["choice", "seed"], columns="metric", values="value")
    return {choice: wide.loc[choice] for choice in CHOICES if choice in wide.index.get_level_values(0)}


def table(frame: pd.DataFrame, tested_on: str, score: str, against: bool) -> str:
    """In percent: each choice, or with ``against`` its difference to the same method without anything, in points."""
    values = _values(frame, tested_on, score)
    title = f"{score} score, tested on {tested_on}" + (", differences" if against else "")
    lines = [f"| {title} | runs | " + " | ".join(COLUMNS) + " |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for choice, each in values.items():
        base = choice.split(",")[0]
        if against and (choice == base or base not in values):
            continue
        shown = (each - values[base]).dropna(how="all") if against else each
        cells = [cell(shown[name], "+" if against else "") for name in COLUMNS.values()]
        lines.append(f"| {choice} | {len(shown)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    args = arguments(__doc__ or "", CHOICES, "runs/off-clip").parse_args()
    if not args.tables:
        run_all(
            args, CHOICES, [Task(choice, seed, DOMAIN) for seed, choice in product(args.seeds, args.choices)], tested
        )
    frame = collected(args.out, CHOICES)
    tables = [
        table(frame, on, score, against)
        for on, score, against in product((DOMAIN, "industrial"), SCORES, (False, True))
    ]
    print("\n\n".join(tables))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
