"""Figure 8: the joint score against its parts: what an image's two numbers say, and how well each mixture ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from headlens.detectors.scoring import Scoring, check_map
from headlens.errors import ConfigError
from headlens.figures.context import Domain, FigureContext
from headlens.figures.spec import FigureSpec, RenderedFigure, images_of, made_on, with_interval
from headlens.metrics import image_metrics
from headlens.plots.scatter import mixtures, score_plane
from headlens.plots.style import width

ALPHAS = np.linspace(0, 1, 41)


def draw(context: FigureContext) -> RenderedFigure:
    """Above: the first run's images in the plane of both parts. Below: AUROC of every mixture, run by run."""
    for domain in context:
        check_map(domain.run.detector.reads_map, "the figure joint")
        if "image_auroc" not in domain.images.metrics:
            raise ConfigError(f"{domain.images.name} has no normal, or no anomalous images: nothing can be ranked")
    found = pd.concat([_mixed(context, domain) for domain in context], ignore_index=True)
    fig = Figure(figsize=(width(len(context.domains)), 3.6), layout="constrained")
    above, below = np.asarray(fig.subfigures(2, 1, height_ratios=[1.9, 1.6]))
    planes = above.subplots(1, len(context.domains), squeeze=False, sharey=True)[0]
    for domain, ax in zip(context, planes, strict=True):
        scores, run = _pooled(context, domain)[domain.run.folder.name], domain.run
        how, pool = run.detector.scoring, _pool(run.detector.scoring)
        score_plane(scores, ax, alpha=how.alpha, threshold=run.threshold, title=domain.name, pool=pool, unit=how.unit)
        ax.label_outer()
    above.legend(*planes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    mixtures(found, below.subplots(), alphas=sorted({domain.run.detector.scoring.alpha for domain in context}))
    runs = [run for domain in context for run in domain.runs.whole]
    return RenderedFigure(fig, _caption(context, found), runs, [domain.images for domain in context])


def _pooled(context: FigureContext, domain: Domain) -> dict[str, pd.DataFrame]:
    """Of every run: category, anomalous, image, and map, as its scoring pools it."""
    scoring, found = domain.run.detector.scoring, {}
    for run in domain.runs.whole:
        scores = context.evaluation(domain, run).scores
        if scoring.pool != "max" and scoring.alpha > 0:  # the joint score is linear in the pooled map
            scores = scores.assign(map=(scores["joint"] - (1 - scoring.alpha) * scores["image"]) / scoring.alpha)
        found[run.folder.name] = scores[scores["anomalous"].notna()]
    return found


def _mixed(context: FigureContext, domain: Domain) -> pd.DataFrame:
    """Domain, run, alpha, auroc: percent, mean over categories."""
    rows = []
    for run, scores in _pooled(context, domain).items():
        each = []
        for _, group in scores.groupby("category"):
            image, map_ = (torch.tensor(group[name].to_numpy()) for name in ("image", "map"))
            shares = torch.tensor(ALPHAS)[:, None]
            labels = torch.tensor(group["anomalous"].astype(bool).to_numpy())
            each.append(image_metrics((1 - shares) * image + shares * map_, labels)["auroc"].numpy())
        means = 100 * np.nanmean(each, axis=0)
        rows += [(domain.name, run, share, auroc) for share, auroc in zip(ALPHAS, means, strict=True)]
    return pd.DataFrame(rows, columns=["domain", "run", "alpha", "auroc"])


def _caption(context: FigureContext, found: pd.DataFrame) -> str:
    facts = []
    for domain in context:
        alpha = domain.run.detector.scoring.alpha
        table = found[found["domain"] == domain.name].pivot(index="run", columns="alpha", values="auroc")
        at = ALPHAS[np.abs(ALPHAS - alpha).argmin()]
        cls, map_, joint = table[ALPHAS[0]], table[ALPHAS[-1]], table[at]
        best = table.mean().idxmax()
        scores = _pooled(context, domain)[domain.run.folder.name]
        between = scores.groupby("category")[["image", "map"]].corr(method="spearman").xs("image", level=1)["map"]
        facts.append(
            f"{domain.name}: CLS {with_interval(cls, 1)}, map {with_interval(map_, 1)}, joint "
            f"{with_interval(joint, 1)} (over CLS {with_interval(joint - cls, 1, signed=True)}); the mean is highest "
            f"at α = {best:.2f}; rank correlation of the two parts within a category {between.mean():.2f}"
        )
    scorings = {domain.name: domain.run.detector.scoring for domain in context}
    rules = {name: f"{_pool(scoring)} of the map, α = {scoring.alpha:g}" for name, scoring in scorings.items()}
    each = [f"{rule} ({name})" for name, rule in rules.items()]
    rule = "; ".join(each) if len(set(rules.values())) > 1 else next(iter(rules.values()))
    return (
        f"The joint score, (1 − α) CLS score + α {rule}. Above: every image by its "
        "two parts (one run a domain); images on one dashed line have the same joint score, and the full line is the "
        "threshold that was calibrated on the training images. CLS alone would cut by a vertical line, the map "
        "alone by a horizontal one. Below: image AUROC of every mixture, mean over categories; thin: each run, thick: "
        f"their mean; dotted: α. In percent, mean over runs ± 95 % interval by Student's t: {'; '.join(facts)}. That "
        f"best α was read off the test images and is no choice for use. "
        f"{images_of(context, subset=False).capitalize()}. {made_on(context)}"
    )


def _pool(scoring: Scoring) -> str:
    """What is taken of the map: as the joint score does; its maximum where that does not read the map."""
    if scoring.pool == "max" or scoring.alpha == 0:
        return "maximum"
    return f"mean of the highest {100 * scoring.top:g} %"


SPEC = FigureSpec("joint", "The joint score against its parts", draw)
