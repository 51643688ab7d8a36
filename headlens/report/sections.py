"""The sections of a run and its metrics. Nothing is computed on images here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from headlens import html
from headlens.data import DataSet
from headlens.data.protocol import canonical, canonical_names
from headlens.metrics.table import IMAGE, MEAN, PIXEL, fewer, title_of
from headlens.plots.overlay import limits_of
from headlens.printing import spelled
from headlens.report import page
from headlens.report.measuring import LEAST, Measured, ends
from headlens.units import PLURAL


def warnings(measured: Measured, images: DataSet) -> str:
    """What a reader has to know before any number: no photographs, random weights, not zero-shot, few images."""
    made, lines = measured.run.detector.backbone.provenance, []
    if made.weights.startswith("embedded"):
        lines.append(
            f"The backbone {made.name} was trained on generated images alone and has never seen a photograph. These "
            "numbers show how this run behaves on these images; they say nothing about OpenAI's CLIP or real data."
        )
    elif made.weights.startswith("random"):
        lines.append(f"The backbone {made.name} has random weights: nothing here says what a trained one does.")
    trained_on = str(measured.run.card.get("trained_on") or "unknown")
    if canonical(images.name) in canonical_names(trained_on):
        lines.append(f"Not zero-shot: the run was trained on {images.name}, the set that it is measured on here.")
    return "".join(page.said(line, "note") for line in lines)


def short(measured: Measured, against: Measured | None) -> str:
    """The few numbers that a reader looks for first."""
    entries: dict[str, tuple[str, str]] = {}
    means = measured.metrics
    means = means[means["category"] == MEAN].set_index("metric")
    for metric in ("image_auroc", "pixel_auroc", "pixel_aupro"):
        if metric in means.index:
            row = means.loc[metric]
            entries[title_of(metric)] = (_percent(row["value"]), _interval(row["low"], row["high"]) or "no interval")
    for label, number, of in _mistakes(measured):
        entries[label] = (str(number), f"of {of} images")
    told = f" Compared with {against.name}." if against else ""
    about = page.said(f"Metrics in percent, means over categories; in brackets: 95 % intervals.{told}", "about")
    return page.tiles(entries) + (about if entries else "")


def left_out(reasons: Mapping[str, str]) -> str:
    """Which parts are missing, and why; nothing where none is."""
    if not reasons:
        return ""
    return page.section("Left out", page.said("These parts are not in this report:"), page.facts(reasons))


def the_run(measured: Measured, against: Measured | None, images: DataSet) -> str:
    """What the run is, and which images it was shown."""
    ours = measured.run.facts
    if against is None:
        told = page.facts(ours)
    else:
        theirs = against.run.facts
        rows = [(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]
        told = page.table(pd.DataFrame(rows, columns=["", measured.name, against.name], dtype=object), kind="words")
    labels = [record.anomalous for record in images.records]
    shown: dict[str, object] = {
        "data set": images.name,
        "domain": images.domain or "unknown",
        "categories": ", ".join(map(spelled, images.categories)),
        "images": f"{len(images)}: {labels.count(False)} normal, {labels.count(True)} anomalous"
        + (f", {labels.count(None)} without a label" if None in labels else ""),
        "masks": "yes" if images.has_masks else "no",
    }
    left = page.said(" ".join(measured.evaluation.lines()), "note") if measured.evaluation.lines() else ""
    return page.section("The run", told, "<h3>The images</h3>", page.facts(shown), left)


def metrics(measured: Measured, against: Measured | None) -> str:
    """Every metric that is defined, in each category; the difference to another run; all scores as dots."""
    rows = measured.metrics
    parts = []
    if len(rows):
        about = (
            "In percent; image metrics are those of the joint score. In brackets: 95 % bootstrap intervals over "
            f"images, for categories with {LEAST} images or more. -: undefined."
        )
        parts.append(page.said(about, "about"))
        parts += [page.table(_wide(rows, names)) for names in (IMAGE, PIXEL) if rows["metric"].isin(names).any()]
    parts += [page.said(line, "about") for line in measured.evaluation.undefined()]
    if against is not None and len(rows):
        parts += ["<h3>Against the other run</h3>", _differences(measured, against)]
    run, scores = measured.run, measured.evaluation.scores
    unit = run.detector.scoring.unit
    limit = "" if run.threshold is None else f" The dashed line is the threshold, {run.threshold:.3f}."
    parts.append("<h3>Joint score of every image</h3>")
    parts.append(
        page.said(f"In {PLURAL[unit]}; higher is more anomalous.{limit} Point at a dot for the name of its image.")
    )
    limits = limits_of([scores["joint"].to_numpy()], unit)
    parts.append(page.strip(scores, run.threshold, limits))
    if len(decided := _decisions(measured)):
        parts.append(page.table(decided, "Images above the threshold count as anomalous."))
    return page.section("Metrics", *parts)


def provenance(measured: Measured, against: Measured | None, command: str, made: str) -> str:
    """Versions, hashes and settings, and the command that makes the report again."""
    about = measured.evaluation.provenance
    rows: dict[str, object] = {"command": command, "made on": made}
    rows |= {f"version of {name}": value for name, value in about["versions"].items()}
    for one in [measured, *([against] if against else [])]:
        of = f" of {one.name}" if against else ""
        rows[f"run{of}"] = f"{one.name}, learned tensors SHA-256 {one.evaluation.provenance['learned_sha256']}"
        backbone = one.evaluation.provenance["backbone"]
        rows[f"backbone{of}"] = f"{backbone['name']} ({backbone['weights']}), SHA-256 {backbone['sha256']}"
    rows |= {"images": f"{about['dataset']['name']}, fingerprint {about['dataset']['fingerprint']}"}
    rows |= {"computed on": f"{about['device']} in {about['precision']}, images of {about['size']} px"}
    settings = {name: value for name, value in about.items() if name != "versions"}
    whole = "\n".join(map(html.text, json.dumps(settings, indent=1).splitlines()))
    details = f"<details><summary>All settings</summary><pre>{whole}</pre></details>"
    return page.section("Provenance", page.facts(rows), details)


def _mistakes(measured: Measured) -> list[tuple[str, int, int]]:
    """What is wrong, how often, and of how many images; nothing without a threshold."""
    limit, scores = measured.run.threshold, measured.evaluation.scores
    if limit is None:
        return []
    above, counts = scores["joint"] > limit, []
    for name, label, wrong in (("false negatives", True, ~above), ("false positives", False, above)):
        which = scores["anomalous"].eq(label).fillna(False).astype(bool)
        if which.any():
            counts.append((name, int((wrong & which).sum()), int(which.sum())))
    return counts


def _decisions(measured: Measured) -> pd.DataFrame:
    """Right and wrong decisions in every category."""
    limit, scores = measured.run.threshold, measured.evaluation.scores
    labelled = scores[scores["anomalous"].notna()]
    if limit is None or labelled.empty:
        return pd.DataFrame()
    rows = []
    for category, group in labelled.groupby("category", sort=False):
        above, anomalous = group["joint"] > limit, group["anomalous"].astype(bool)
        counts = [(above & anomalous), (~above & anomalous), (above & ~anomalous), (~above & ~anomalous)]
        rows.append((str(category), *(int(each.sum()) for each in counts)))
    names = ["category", "true positives", "false negatives", "false positives", "true negatives"]
    return pd.DataFrame(rows, columns=names)


def _wide(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row for each category, its cells as text; a mean over fewer categories says so."""
    rows = rows[rows["metric"].isin(names)]
    cells: dict[str, dict[str, str]] = {}
    for row in rows.itertuples(index=False):
        said = f"{_percent(row.value)} {_interval(row.low, row.high)}".strip()
        said += fewer(row.n, row.of) if row.n else ""
        cells.setdefault(str(row.category), {})[title_of(row.metric)] = said
    frame = pd.DataFrame.from_dict(
        cells, orient="index", columns=[title_of(metric) for metric in dict.fromkeys(rows["metric"])]
    )
    return frame.rename_axis("category").reset_index()


def _differences(measured: Measured, against: Measured) -> str:
    """Means over categories of both runs and their difference; its interval is paired, image by image."""
    both = [one.metrics[one.metrics["category"] == MEAN].set_index("metric") for one in (measured, against)]
    paired = measured.evaluation.scores["name"].equals(against.evaluation.scores["name"])
    rows = []
    for metric in both[0].index.intersection(both[1].index, sort=False):
        ours, theirs = (one.loc[metric, "value"] for one in both)
        known = paired and metric in measured.replicates and metric in against.replicates
        low, high = ends(measured.replicates[metric] - against.replicates[metric]) if known else (float("nan"),) * 2
        change = f"{100 * (ours - theirs):+.1f} {_interval(low, high, '+.1f')}".strip()
        rows.append((title_of(metric), _percent(ours), _percent(theirs), change))
    about = "Means over categories, in percent; the interval of the difference is of the same images drawn for both."
    return page.table(pd.DataFrame(rows, columns=["metric", measured.name, against.name, "difference"]), about)


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"


def _interval(low: float, high: float, form: str = ".1f") -> str:
    return "" if low != low or high != high else f"[{100 * low:{form}}, {100 * high:{form}}]"
