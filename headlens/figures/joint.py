"""Figure 8: the joint score against its parts: what a picture's two numbers say, and how well each mixture ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from headlens.detectors.scoring import Scoring
from headlens.errors import ConfigError
from headlens.figures.context import Material, Subject
from headlens.figures.spec import Drawn, Recipe, made_on, pictured, with_interval
from headlens.metrics import image_metrics
from headlens.plots.joint import mixtures, score_plane
from headlens.plots.style import COLUMN

ALPHAS = np.linspace(0, 1, 41)


def draw(material: Material) -> Drawn:
    """Above: the first run's pictures in the plane of both parts. Below: AUROC of every mixture, run by run."""
    for subject in material:
        if "image_auroc" not in subject.pictures.metrics:
            raise ConfigError(f"{subject.pictures.name} has no normal, or no anomalous pictures: nothing can be ranked")
    found = pd.concat([_mixed(material, subject) for subject in material], ignore_index=True)
    fig = Figure(figsize=(COLUMN, 3.6), layout="constrained")
    above, below = np.asarray(fig.subfigures(2, 1, height_ratios=[1.9, 1.6]))
    planes = above.subplots(1, len(material.subjects), squeeze=False, sharey=True)[0]
    for subject, ax in zip(material, planes, strict=True):
        scores, run = _pooled(material, subject)[subject.run.folder.name], subject.run
        how, pool = run.detector.scoring, _pool(run.detector.scoring)
        score_plane(scores, ax, alpha=how.alpha, threshold=run.threshold, title=subject.domain, pool=pool)
        ax.label_outer()
    above.legend(*planes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    mixtures(found, below.subplots(), alphas=sorted({subject.run.detector.scoring.alpha for subject in material}))
    runs = [run for subject in material for run in subject.runs.whole]
    return Drawn(fig, _caption(material, found), runs, [subject.pictures for subject in material])


def _pooled(material: Material, subject: Subject) -> dict[str, pd.DataFrame]:
    """Of every run: category, anomalous, image, and map, as its scoring pools it."""
    scoring, found = subject.run.detector.scoring, {}
    for run in subject.runs.whole:
        scores = material.evaluation(subject, run).scores
        if scoring.pool != "max" and scoring.alpha > 0:  # the joint score is linear in the pooled map
            scores = scores.assign(map=(scores["joint"] - (1 - scoring.alpha) * scores["image"]) / scoring.alpha)
        found[run.folder.name] = scores[scores["anomalous"].notna()]
    return found


def _mixed(material: Material, subject: Subject) -> pd.DataFrame:
    """Domain, run, alpha, auroc: percent, mean over categories."""
    rows = []
    for run, scores in _pooled(material, subject).items():
        each = []
        for _, own in scores.groupby("category"):
            image, map_ = (torch.tensor(own[name].to_numpy()) for name in ("image", "map"))
            shares = torch.tensor(ALPHAS)[:, None]
            labels = torch.tensor(own["anomalous"].astype(bool).to_numpy())
            each.append(image_metrics((1 - shares) * image + shares * map_, labels)["auroc"].numpy())
        means = 100 * np.nanmean(each, axis=0)
        rows += [(subject.domain, run, share, auroc) for share, auroc in zip(ALPHAS, means, strict=True)]
    return pd.DataFrame(rows, columns=["domain", "run", "alpha", "auroc"])


def _caption(material: Material, found: pd.DataFrame) -> str:
    said = []
    for subject in material:
        alpha = subject.run.detector.scoring.alpha
        table = found[found["domain"] == subject.domain].pivot(index="run", columns="alpha", values="auroc")
        at = ALPHAS[np.abs(ALPHAS - alpha).argmin()]
        cls, map_, joint = table[ALPHAS[0]], table[ALPHAS[-1]], table[at]
        best = table.mean().idxmax()
        scores = _pooled(material, subject)[subject.run.folder.name]
        between = scores.groupby("category")[["image", "map"]].corr(method="spearman").xs("image", level=1)["map"]
        said.append(
            f"{subject.domain}: CLS {with_interval(cls, 1)}, map {with_interval(map_, 1)}, joint "
            f"{with_interval(joint, 1)} (over CLS {with_interval(joint - cls, 1, signed=True)}); the mean is highest "
            f"at α = {best:.2f}; rank correlation of the two parts within a category {between.mean():.2f}"
        )
    scorings = {subject.domain: subject.run.detector.scoring for subject in material}
    rules = {domain: f"{_pool(own)} of the map, α = {own.alpha:g}" for domain, own in scorings.items()}
    each = [f"{rule} ({domain})" for domain, rule in rules.items()]
    rule = "; ".join(each) if len(set(rules.values())) > 1 else next(iter(rules.values()))
    return (
        f"The joint score, (1 − α) CLS score + α {rule}. Above: every picture by its "
        "two parts (one run a domain); pictures on one dashed line have the same joint score, and the full line is the "
        "threshold that was calibrated on the training pictures. CLS alone would cut by a vertical line, the map "
        "alone by a horizontal one. Below: image AUROC of every mixture, mean over categories; thin: each run, thick: "
        f"their mean; dotted: α. In percent, mean over runs ± 95 % interval by Student's t: {'; '.join(said)}. That "
        f"best α was read off the test pictures and is no choice for use. "
        f"{pictured(material, few=False).capitalize()}. {made_on(material)}"
    )


def _pool(scoring: Scoring) -> str:
    """What is taken of the map: as the joint score does; its maximum where that does not read the map."""
    if scoring.pool == "max" or scoring.alpha == 0:
        return "maximum"
    return f"mean of the highest {100 * scoring.top:g} %"


RECIPE = Recipe("joint", "The joint score against its parts", draw)
