"""``transfer``: what one run learned or showed of its heads, on another detector: its head weights, and its ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError
from headlens.heads.ablation import DEFAULT_METRICS, Text, ablated
from headlens.heads.clean import Targets
from headlens.heads.effects import Effects, check_metrics, defined_mean, over_categories
from headlens.heads.exactness import check_unhooked
from headlens.heads.ranking import Order, Ranking, overlap_of, rankings_of
from headlens.heads.response import Kind
from headlens.heads.scored import Scored, scored
from headlens.heads.store import alone
from headlens.heads.sweep import categories
from headlens.heads.variants import Head, Variant, shuffled, stream_layers
from headlens.heads.weighting import check_hosts, shuffled_weights, weighted
from headlens.metrics.table import MEAN
from headlens.progress import Progress
from headlens.results import Result, ordered

MEASURED = "measured"
"""The name of the ranking, and of the weights, of the measured detector itself."""
_RANDOM, _SHUFFLED, _NONE = "random", "shuffled", "none"


@dataclass(frozen=True)
class Transfer(Result):
    """Rankings of heads, and head weights, that come from elsewhere, measured on one detector.

    Args:
        frame: a row for each ranking, number of best ``heads`` that still work, metric and category (``mean``: over
            categories): ``value``, ``baseline`` (the clean run), ``effect`` and its 95 % bootstrap interval ``low`` to
            ``high`` over images; ``n`` of ``of`` categories where the metric is defined. Random rankings are named
            ``random 0``, ...
        smallest: for each ranking the smallest number of best ``heads`` on the grid with which ``metric`` is at least
            ``share`` of the clean run's; ``low`` to ``high`` is its 95 % bootstrap interval over images, ``p`` the
            chance of a random ranking needing as few (from the random ones; NaN for these).
        overlap: for each pair of rankings that are not random, how far their smallest sets agree: ``first``,
            ``second``, how many heads each has, ``common``, ``jaccard``, ``chance``, ``p``, as in ``Overlap``.
        weights: a row for each choice of head ``weights``, metric and category, as in ``frame``: ``baseline`` is the
            detector without head weights. ``measured`` are those that it learned, if any; ``shuffled 0 NAME``, ... are
            those of ``NAME`` dealt to other heads. Empty where no ranking comes from a run with head weights.
    """

    TABLES: ClassVar = ("smallest", "overlap", "weights")
    smallest: pd.DataFrame
    overlap: pd.DataFrame
    weights: pd.DataFrame

    def best(self, ranking: str, count: int | None = None) -> list[Head]:
        """The first heads of a ranking that is not random; its smallest set when ``count`` is None.

        Raises:
            ConfigError: no such ranking.
        """
        orders: dict[str, list[str]] = self.provenance["rankings"]
        if ranking not in orders:
            raise ConfigError(f"no ranking {ranking!r}; available: {', '.join(orders)}")
        if count is None:
            rows = self.smallest[self.smallest["ranking"] == ranking]
            count = int(rows["heads"].iloc[0])
        return [Head.of(name) for name in orders[ranking][:count]]

    @property
    def paragraph(self) -> str:
        """What the numbers show, and what they do not, in words."""
        parts = [*_needed(self), *_agreed(self), *_weighed(self)]
        name = self.provenance["backbone"]["name"]
        if str(self.provenance["backbone"]["weights"]).startswith("embedded"):
            parts.append(
                f"Made by backbone {name}, which has never seen a photograph: it says nothing about other CLIPs."
            )
        return " ".join(parts)

    def _parts(self) -> list[str]:
        parts = [
            html.paragraph(self.paragraph),
            html.figure(self.plot().figure, "metrics over the number of best heads"),
        ]
        parts.append(html.table(self.smallest, "Smallest sets", most=len(self.smallest)))
        if len(self.overlap):
            parts.append(html.table(self.overlap, "Overlap of the smallest sets", most=len(self.overlap)))
        if len(self.weights):
            means = self.weights[self.weights["category"] == MEAN]
            columns = ["weights", "metric", "value", "effect", "low", "high"]
            parts.append(html.table(means[columns], "Head weights", most=len(means)))
        return parts

    def plot(self, ax: Any = None, metric: str | None = None) -> plots.Figure:
        """Metrics over the number of best heads that still work; see ``headlens.plots.best_heads``."""
        means = self.frame[self.frame["category"] == MEAN]
        target = (self.provenance["metric"], self.provenance["share"])
        return plots.signed(plots.best_heads(means, ax, metric, target), self.made_by, ax)


@alone
def transfer(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    rankings: Order | Mapping[str, Order],
    *,
    keep: Sequence[int] | None = None,
    streams: Sequence[str] | None = None,
    random: int = 8,
    shuffles: int = 8,
    share: float = 0.95,
    metric: str = "pixel_aupro",
    kind: Kind = "zero",
    reference: DataSet | None = None,
    text: Text = "held",
    seed: int = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    replicates: int = 200,
    size: int | None = None,
    batch: int = 8,
    budget: int | None = None,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Measures a detector with only the best heads of a ranking, and with the head weights of another run.

    Of each ranking only the first k heads still work; all others are replaced, all at once and exactly, as ``ablate``
    does. A run with head weights ranks heads by the distance of their weights from 1; its weights are put on the
    detector, too, in place of the detector's.

    Args:
        detector: the measured detector, or run.
        data: the images; a data set, or its name for ``headlens.data.open``.
        rankings: a run with head weights, a result of ``importance``, a frame with columns stream, layer, head, value
            (the best are the largest; true and false make a mask; ``head_values`` makes one of any result), or heads,
            the best first; several by name, of which ``measured`` is the detector's. Where weights are put on a
            detector that learned some, ``measured`` is added. Heads of equal value come in the order of stream, layer
            and head.
        keep: the numbers of best heads: 0, 1, 2, 4, 8, ... when None; all heads are always added.
        streams: heads of which streams are ranked; by default all that the detector and each ranking have. Heads of
            other streams work.
        random: how many random rankings of the same heads to compare with.
        shuffles: how many times weights are dealt to other heads at random, to compare with.
        share: of the clean run's ``metric`` that the smallest set must reach, above 0 and up to 1.
        metric: what the smallest set is measured by; one of ``metrics``.
        kind, reference, text: what other heads are replaced with, as in ``ablate``.
        seed: of donors, the bootstrap, random rankings and shuffles.
        metrics, replicates, size, batch, budget, precision, out, progress: as in ``ablate``. ``progress`` counts the
            images twice where weights are put on the detector.

    Raises:
        ConfigError: a bad setting; a ranking without a stream in common, or on another backbone; a run without head
            weights; a detector that cannot host weights.
        ShapeError: a ranking of other heads than the detector's, or with a value that is not finite.
        DataError: no image could be read; no donor.
        RunError: ``out`` holds another sweep, or cannot be written.

    >>> import headlens
    >>> images = headlens.data.open("procedural:industrial/aux", category="wood", per_category=2, size=32)
    >>> runs = headlens.load("mini-captions-industrial-0"), headlens.load("mini-captions-medical-0")
    >>> result = transfer(runs[0], images, runs[1], keep=[16], random=0, shuffles=0, size=56)
    >>> result.smallest["ranking"].tolist(), len(result.best("transferred", 16))
    (['transferred', 'measured'], 16)
    """
    detector, data = detector_of(detector), as_set(data)
    folder = Path(out) if out else None
    check_unhooked(detector, "a transfer of heads")
    check_metrics(metrics)
    if metric not in metrics:
        raise ConfigError(f"metric {metric!r} is not measured; measured are {', '.join(metrics) or 'none'}")
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}; it lies above 0 and up to 1, such as 0.95")
    if random < 0 or shuffles < 0:
        raise ConfigError(f"random is {random} and shuffles {shuffles}; they are 0 or more")
    orders = dict(rankings) if isinstance(rankings, Mapping) else {"transferred": rankings}
    if taken := [name for name in orders if name.split(" ")[0] in (_RANDOM, _SHUFFLED, _NONE)]:
        raise ConfigError(f"a ranking is called {taken[0]!r}, as those are that it is compared with; rename it")
    ranked = rankings_of(detector, orders, streams)
    if detector.head_weights() and MEASURED not in orders and any(ranking.weights for ranking in ranked):
        ranked = rankings_of(detector, orders | {MEASURED: detector}, streams)
    grid = _grid(keep, len(ranked[0].heads))
    options: dict[str, Any] = {"metrics": metrics, "replicates": replicates, "seed": seed, "size": size, "batch": batch}
    options |= {"precision": precision, "progress": progress}
    on_weights = _weights(detector, data, ranked, shuffles, folder and folder / "weights", options)
    lists = {ranking.name: ranking.heads for ranking in ranked}
    lists |= {f"{_RANDOM} {i}": tuple(shuffled(sorted(ranked[0].heads), seed + i)) for i in range(random)}
    rest, rows = _variants(lists, grid)
    options |= {
        "kind": kind,
        "reference": reference,
        "text": text,
        "budget": budget,
        "out": folder and folder / "heads",
    }
    done = ablated(detector, data, rest, what="transfer", **options)
    frame = _frame(data, done.effects, metrics, rows, ("ranking", "heads")).assign(kind=kind)
    smallest = smallest_sets([each[metric] for each in done.effects.values()], rows, share)
    about = {key: value for key, value in done.provenance.items() if key != "variants"}
    about |= {"rankings": {ranking.name: [*map(str, ranking.heads)] for ranking in ranked}, "keep": grid}
    about |= {"sources": {ranking.name: {"of": ranking.source.of, **ranking.source.about} for ranking in ranked}}
    about |= {"random": random, "shuffles": shuffles, "share": share, "metric": metric}
    return Transfer(frame, about, smallest, _overlap(ranked, smallest), on_weights)


def _grid(keep: Sequence[int] | None, total: int) -> list[int]:
    """How many heads still work: rising, all of them last."""
    if keep is None:
        keep = [0, *(2**power for power in range(total.bit_length()))]
        keep = [count for count in keep if count < total]
    if wrong := [count for count in keep if not 0 <= count <= total]:
        raise ConfigError(f"keep has {wrong[0]}; numbers of best heads are 0 to {total}")
    if not set(keep) - {total}:
        raise ConfigError("keep has no number below that of all heads, which are the clean run: add one, such as 16")
    return sorted({*map(int, keep), total})


Rows = dict[tuple[Any, ...], int | None]
"""Keys of what is reported, and which change each is; None where nothing is changed."""


def _variants(lists: Mapping[str, Sequence[Head]], grid: Sequence[int]) -> tuple[list[Variant], Rows]:
    """All but the first k heads of each list, each set once, and which one a list and a k have."""
    variants: dict[frozenset[Head], Variant] = {}
    rows: Rows = {}
    for name, heads in lists.items():
        for count in grid:
            rest = frozenset(heads[count:])
            if rest:
                variants.setdefault(rest, Variant(f"{name}: all but {count}", tuple(sorted(rest)), name))
            rows[name, count] = [*variants].index(rest) if rest else None
    return [*variants.values()], rows


def _weights(
    detector: Detector, data: DataSet, ranked: Sequence[Ranking], shuffles: int, out: Path | None, options: Any
) -> pd.DataFrame:
    """``Transfer.weights``."""
    there = {stream for stream, layers in stream_layers(detector).items() if len(layers)}
    given = {r.name: {s: w for s, w in r.weights.items() if s in there} for r in ranked if r.weights}
    if not given:
        return pd.DataFrame({"weights": [], "category": [], "metric": []})
    choices = dict(given)
    for name, weights in given.items():
        if name != MEASURED:
            check_hosts(detector, weights, name)
            every = [shuffled_weights(detector, weights, options["seed"] + i) for i in range(shuffles)]
            choices |= {f"{_SHUFFLED} {i} {name}": dealt for i, dealt in enumerate(every)}

    def changed(lowered: Detector, part: Batch, images: Tensor) -> tuple[Targets, Targets]:
        return weighted(lowered, images, categories(part), [*choices.values()])

    sources = {ranking.name: ranking.source.about.get("sha256") for ranking in ranked}
    done: Scored = scored(
        detector, data, changed, what="transfer of weights", weights=[*choices], sources=sources, out=out, **options
    )
    rows: Rows = {(_NONE,): None} | {(name,): number for number, name in enumerate(choices)}
    return _frame(data, done.effects, options["metrics"], rows, ("weights",))


def _frame(
    data: DataSet,
    effects: Mapping[str, Mapping[str, Effects]],
    metrics: Sequence[str],
    rows: Rows,
    keys: Sequence[str],
) -> pd.DataFrame:
    """A row for each key, metric and category, their mean first."""
    frames = []
    for category in (MEAN, *effects):
        parts = list(effects.values()) if category == MEAN else [effects[category]]
        for metric in metrics:
            numbers = pd.DataFrame(over_categories([part[metric] for part in parts])).drop(columns="magnitude")
            clean = {"effect": 0.0, "low": 0.0, "high": 0.0, "value": numbers["baseline"].iloc[0]}
            whole = numbers.head(1).assign(**clean, n=numbers["n"].max())
            every = pd.concat([numbers, whole], ignore_index=True)
            at = [len(numbers) if number is None else number for number in rows.values()]
            columns = dict(zip(keys, zip(*rows, strict=True), strict=True))
            frames.append(every.iloc[at].reset_index(drop=True).assign(**columns, metric=metric, category=category))
    frame = pd.concat(frames, ignore_index=True).assign(domain=data.domain, dataset=data.name)
    return ordered(frame)[["domain", "dataset", "category", *keys, "metric", *numbers.columns]]


def smallest_sets(parts: Sequence[Effects], rows: Rows, share: float) -> pd.DataFrame:
    """``Transfer.smallest``, of the effects in every category on one metric.

    In each draw of images the clean run is that of the same images. NaN where the metric is not defined.
    """
    value, baseline = defined_mean([part.value for part in parts]), defined_mean([np.array(p.baseline) for p in parts])
    whole = defined_mean([part.whole for part in parts])[:, None]  # [R, 1]
    drawn = defined_mean([part.whole[:, None] + part.replicates for part in parts])  # [R, V]
    lines = []
    for name in dict.fromkeys(name for name, _ in rows):
        counts = np.array([count for ranking, count in rows if ranking == name], float)
        at = [rows[name, int(count)] for count in counts]
        values = np.array([baseline if number is None else value[number] for number in at])
        replicates = np.stack([whole[:, 0] if number is None else drawn[:, number] for number in at], 1)
        count = _first(counts, values[None], np.array([[share * baseline]]))
        several = _first(counts, replicates, share * whole)
        known = several[~np.isnan(several)]
        low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf") if known.size else (np.nan, np.nan)
        lines.append((name, count[0], low, high))
    frame = pd.DataFrame(lines, columns=["ranking", "heads", "low", "high"])
    chosen = frame["ranking"].str.startswith(f"{_RANDOM} ")
    others = frame.loc[chosen, "heads"].to_numpy()
    p = [(1 + (others <= count).sum()) / (1 + len(others)) for count in frame["heads"]]
    return frame.assign(p=np.where(chosen | frame["heads"].isna() | (len(others) == 0), np.nan, p))


def _first(counts: np.ndarray, values: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The first of K counts whose value [R, K] is at least ``least`` [R, 1]; NaN where none is, [R]."""
    enough = values >= least
    return np.where(enough.any(1), counts[enough.argmax(1)], np.nan)


def _overlap(ranked: Sequence[Ranking], smallest: pd.DataFrame) -> pd.DataFrame:
    """``Transfer.overlap``."""
    counts = smallest.set_index("ranking")["heads"].dropna().astype(int)
    sets = {ranking.name: ranking.heads[: counts[ranking.name]] for ranking in ranked if ranking.name in counts}
    lines = []
    for first, second in combinations(sets, 2):
        sizes = {"heads_first": len(sets[first]), "heads_second": len(sets[second])}
        agreed = overlap_of(sets[first], sets[second], len(ranked[0].heads))
        lines.append({"first": first, "second": second, **sizes, **vars(agreed)})
    columns = ["first", "second", "heads_first", "heads_second", "common", "jaccard", "chance", "p"]
    return pd.DataFrame(lines, columns=columns)


def _needed(result: Transfer) -> list[str]:
    """How many heads each ranking needs."""
    about, smallest = result.provenance, result.smallest.set_index("ranking")
    metric, total = plots.named(about["metric"]), max(about["keep"])
    means = result.frame[(result.frame["category"] == MEAN) & (result.frame["metric"] == about["metric"])]
    streams = " and ".join(sorted({Head.of(name).stream for name in next(iter(about["rankings"].values()))}))
    clean = means["baseline"].iloc[0]
    of = f"{about['detector']['method']} on {about['dataset']['name']} ({about['dataset']['images']} images)"
    if np.isnan(clean):
        return [f"{metric} of {of} is not defined, and no smallest set is measured by it."]
    parts = [
        f"Of {total} {streams} heads of {of}, the smallest set on the grid that keeps {about['share']:.0%} of the "
        f"clean run's {metric}, {clean:.1%}, all other heads replaced ({about['kind']}):"
    ]
    needs = [f"{name} {_count(smallest.loc[name])}" for name in about["rankings"]]
    parts.append(f"{'; '.join(needs)} [95 % bootstrap interval over images].")
    if others := [count for name, count in smallest["heads"].items() if name not in about["rankings"]]:
        span = " to ".join(dict.fromkeys(f"{count:.0f}" for count in (min(others), max(others))))
        parts.append(f"Random rankings ({len(others)}) need {span}.")
    return parts


def _count(row: pd.Series) -> str:
    return f"{row['heads']:.0f} [{row['low']:.0f}, {row['high']:.0f}]"


def _agreed(result: Transfer) -> list[str]:
    """How far the smallest sets agree."""
    return [
        f"The smallest sets of {row.first} and {row.second} have {row.common} heads in common (Jaccard "
        f"{row.jaccard:.2f}, by chance {row.chance:.2f}, p = {row.p:.2g})."
        for row in result.overlap.itertuples()
        if row.heads_first or row.heads_second
    ]


def _weighed(result: Transfer) -> list[str]:
    """What head weights gain."""
    metric = result.provenance["metric"]
    rows = result.weights[(result.weights["category"] == MEAN) & (result.weights["metric"] == metric)]
    rows = rows.set_index("weights")
    if rows.empty or np.isnan(rows.at[_NONE, "value"]):
        return []
    parts = [f"Without head weights {plots.named(metric)} is {rows.at[_NONE, 'value']:.1%}."]
    for name in [name for name in result.provenance["rankings"] if name in rows.index]:
        gain, low, high = (100 * rows.loc[name, ["effect", "low", "high"]]).astype(float)
        text = f"Head weights of {name}: {gain:+.1f} points [{low:+.1f}, {high:+.1f}]"
        dealt = 100 * rows.loc[[other for other in rows.index if other.endswith(f" {name}")], "effect"]
        if len(dealt):
            text += f"; shuffled over heads {dealt.min():+.1f} to {dealt.max():+.1f} ({len(dealt)} shuffles)"
        parts.append(f"{text}.")
    return parts
