"""``compare``: compares the same heads in two domains, with runs as the unit of uncertainty; see ``permutation``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch

from headlens import html, plots
from headlens.detectors.detector import Detector, HasDetector
from headlens.errors import ConfigError, ShapeError
from headlens.heads.importance import Importance
from headlens.heads.permutation import agreement, differences, kendall, overlap, spearman
from headlens.heads.variants import Head, names_of
from headlens.heads.weights import weights
from headlens.provenance import learned_sha256, versions
from headlens.results import Result, ordered

if TYPE_CHECKING:
    from typing import TypeAlias

    Item: TypeAlias = "HasDetector | Detector | Importance | pd.DataFrame"

KEYS = ["stream", "layer", "head"]
NEUTRAL = {"weight": 1.0, "importance": 0.0, "value": 0.0}
"""What is compared, and where a head stands of which nothing was learned: top heads are those furthest from it."""
LABELS = {"weight": "head weight", "importance": "importance (mean head = 1)", "value": "value"}
_TAKEN = {*KEYS, "name", "size", "difference", "error", "p", "q_own", "q", "significant"}
_SURE = 0.05  # p of the contrast up to which domains are said to agree less than seeds


@runtime_checkable
class TrainedRun(Protocol):
    """A run: its detector, the name of its folder, and its ``card.json``."""

    detector: Detector
    folder: Path
    card: dict[str, Any]


@dataclass(frozen=True)
class Comparison(Result):
    """The runs of two domains compared, head by head and over all heads.

    Args:
        frame: a row for each head: stream, layer, head, a column for each domain (the mean over its runs),
            ``difference`` (second minus first), its standard ``error``, and ``p``, ``q_own``, ``q`` as in
            ``permutation.differences``; ``significant`` where q is at most the level.
        agreement: ``statistic`` (``spearman``, ``kendall``, ``top k``), ``pairs`` (within each domain, between,
            between minus within), ``value``, ``low``, ``high``, ``count``, ``p`` as in ``permutation.agreement``, and
            ``chance``, the value for heads in random order.
    """

    TABLES: ClassVar = ("agreement",)
    agreement: pd.DataFrame

    @property
    def domains(self) -> tuple[str, str]:
        """The first and the second."""
        first, second = self.provenance["runs"]
        return first, second

    @property
    def made_by(self) -> str:
        """One line that says which backbone this is of, and how many runs of each domain."""
        runs = " and ".join(f"{len(each)} {domain}" for domain, each in self.provenance["runs"].items())
        return f"{super().made_by} · runs: {runs}"

    @property
    def strongest(self) -> pd.DataFrame:
        """The rows of ``frame``, named by ``name``: the smallest q first, then the largest difference."""
        frame = self.frame.assign(name=names_of(self.frame), size=self.frame["difference"].abs())
        return frame.sort_values(["q", "size"], ascending=[True, False], kind="stable").drop(columns="size")

    @property
    def paragraph(self) -> str:
        """What the numbers show, and what they do not, in words."""
        return " ".join((_who(self), _agree(self), _differ(self), _limits(self))).rstrip()

    def _parts(self) -> list[str]:
        columns = ["name", *self.domains, "difference", "q"]
        return [
            html.paragraph(self.paragraph),
            html.table(self.agreement, "Agreement of runs", most=len(self.agreement)),
            html.table(self.strongest[columns], "Heads, smallest q first"),
        ]

    def plot(self, ax: Any = None) -> plots.Figure:
        """Both domains and their difference side by side, a row for each stream.

        Args:
            ax: axes to draw on, three for each stream; a new figure when None.

        Raises:
            ConfigError: another number of axes.
        """
        of = self.provenance["of"]
        centre = NEUTRAL[of] if of == "weight" else None
        level = self.provenance["level"]
        drawn = plots.comparison(self.frame, self.domains, ax, label=LABELS[of], centre=centre, level=level)
        return plots.signed(drawn, self.made_by, ax)


def compare(
    domains: Mapping[str, Item | Sequence[Item]], *, k: int = 20, level: float = 0.05, seed: int = 0
) -> Comparison:
    """Compares two domains' runs.

    ``compare({name: headlens.runs(f"mini-captions-{name}") for name in ("industrial", "medical")})``

    Args:
        domains: two names, each with one or several runs, all of one kind: ``Run`` or ``Detector``, whose
            learned head weights are compared; results of ``importance``, compared in units of the run's mean head; or
            frames with columns stream, layer, head, value.
        k: number of top heads whose overlap is measured.
        level: false discovery rate below which heads count as different.
        seed: seed of the label permutations, which are sampled if there are too many to try all.

    Raises:
        ConfigError: not two domains, no run, a run twice, different backbones, nothing learned, a bad setting.
        ShapeError: runs that have different heads, heads twice, or values that are not finite.

    >>> heads = pd.DataFrame({"stream": "local", "layer": 5, "head": range(4)})
    >>> runs = [heads.assign(value=[1.0, 2.0, 3.0 + seed, 9.0]) for seed in range(6)]
    >>> result = compare({"industrial": runs[:3], "medical": runs[3:]}, k=2)
    >>> result.frame["difference"].tolist()
    [0.0, 0.0, 3.0, 0.0]
    """
    if len(domains) != 2 or set(domains) & _TAKEN:
        got = ", ".join(domains) or "none"
        raise ConfigError(f"two domains are compared, named like no column, got {got}; give a dict of names and runs")
    first, second = domains
    several = {name: list(runs) if isinstance(runs, (list, tuple)) else [runs] for name, runs in domains.items()}
    sources = {name: _sources(runs, name) for name, runs in several.items()}
    every = [source for each in sources.values() for source in each]
    _check(every)
    keys, values = _table(every)
    of, labels = every[0].of, np.repeat([False, True], [len(each) for each in sources.values()])
    if not 1 <= k < len(keys):
        raise ConfigError(f"k={k}: the overlap needs at least 1 head and fewer than all {len(keys)}")
    if not 0 < level < 1:
        raise ConfigError(f"level={level}: a false discovery rate lies between 0 and 1, such as 0.05")
    statistics, tests = differences(values, labels, seed)
    frame = keys.assign(**{first: values[~labels].mean(0), second: values[labels].mean(0)}, **statistics)
    frame["significant"] = frame["q"] <= level
    about: dict[str, Any] = {"what": "comparison", "of": of, "backbone": every[0].backbone}
    about["runs"] = {name: [source.about for source in each] for name, each in sources.items()}
    about |= {"k": k, "level": level, "seed": seed, "tests": tests, "versions": versions("numpy", "scipy", "torch")}
    if (dataset := every[0].about.get("dataset")) and all(source.about["dataset"] == dataset for source in every):
        about["dataset"] = dataset
    alike = _agreement(values, labels, (first, second), k, of, seed)
    return Comparison(ordered(frame), json.loads(json.dumps(about)), alike)


def _agreement(
    values: np.ndarray, labels: np.ndarray, domains: tuple[str, str], k: int, of: str, seed: int
) -> pd.DataFrame:
    """``Comparison.agreement`` of values [R, N]; intervals end where the statistic does."""
    pairs = [*(f"within {domain}" for domain in domains), "between", "between - within"]
    similar = {  # matrix, lowest value, value by chance
        "spearman": (spearman(values), -1, 0.0),
        "kendall": (kendall(values), -1, 0.0),
        f"top {k}": (overlap(np.abs(values - NEUTRAL[of]), k), 0, k / values.shape[1]),
    }
    tables = []
    for statistic, (matrix, lowest, chance) in similar.items():
        table = pd.DataFrame({"statistic": statistic, "pairs": pairs, **agreement(matrix, labels, seed)})
        table.loc[:2, ["low", "high"]] = table.loc[:2, ["low", "high"]].clip(lowest, 1)
        tables.append(table.assign(chance=[chance] * 3 + [0.0]))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Source:
    """One run: what is compared, a frame with ``KEYS`` and ``value``, its backbone, and what provenance says of it."""

    of: str
    frame: pd.DataFrame
    backbone: dict[str, Any]
    about: dict[str, Any]


def _sources(items: Sequence[Item], domain: str) -> list[_Source]:
    sources: list[_Source] = []
    for number, item in enumerate(items):
        name = f"{domain} {number}"
        if isinstance(item, Importance):
            sources.append(_of_importance(item, name))
        elif isinstance(item, pd.DataFrame):
            sources.append(_Source("value", item, {}, {"name": name}))
        elif isinstance(item, Detector):
            sources.append(_of_detector(item, {"name": name, "sha256": learned_sha256(item)}))
        elif isinstance(item, TrainedRun):
            about = {"name": item.folder.name, "sha256": item.card.get("model_sha256")}
            sources.append(_of_detector(item.detector, {**about, "trained_on": item.card.get("trained_on")}))
        else:
            raise ConfigError(
                f"{domain}: {type(item).__name__} is not a run; give headlens.runs, detectors, importance or frames"
            )
    if not sources:
        raise ConfigError(f"{domain}: no run; give at least one, and three for intervals")
    return sources


def _of_detector(detector: Detector, about: dict[str, Any]) -> _Source:
    with torch.no_grad():
        return _Source("weight", weights(detector, about["name"]).frame, asdict(detector.backbone.provenance), about)


def _of_importance(result: Importance, name: str) -> _Source:
    """In units of the run's mean head: how steep a run's margins are on the whole is no property of a head."""
    made, frame = result.provenance, result.summary
    if frame["metric"].nunique() != 1:
        raise ConfigError(f"{name}: importance for {', '.join(frame['metric'].unique())}; compare one target at a time")
    about = {"name": name, "sha256": made["learned_sha256"], "dataset": made["dataset"]}
    about["metric"] = frame["metric"].iat[0]
    size = frame["importance"].mean() or 1.0  # where nothing matters, nothing is divided
    return _Source("importance", frame.assign(value=frame["importance"] / size), made["backbone"], about)


def _check(every: Sequence[_Source]) -> None:
    """Raises ConfigError where runs cannot be compared."""
    first = every[0]
    seen: dict[str, str] = {}
    for source in every:
        name = source.about["name"]
        if source.of != first.of:
            raise ConfigError(f"{first.about['name']} gives a {first.of}, {name} a {source.of}; give all of one kind")
        ours, theirs = _identity(first.backbone), _identity(source.backbone)
        if ours != theirs:
            raise ConfigError(
                f"{first.about['name']} is on {ours}, {name} on {theirs}: their heads do not "
                "correspond; compare runs on one backbone"
            )
        if first.about.get("metric") != source.about.get("metric"):
            raise ConfigError(f"{name}: importance for {source.about['metric']}, not {first.about['metric']}; use one")
        if source.about.get("sha256"):
            key = json.dumps([source.about["sha256"], source.about.get("dataset")])  # one detector may see two sets
            if key in seen:
                raise ConfigError(f"{name} and {seen[key]} are the same run; a run counts once, leave one out")
            seen[key] = name


def _identity(backbone: Mapping[str, Any]) -> str:
    return f"{backbone['name']} ({backbone['weights']}, SHA-256 {backbone['sha256']})" if backbone else ""


def _table(every: Sequence[_Source]) -> tuple[pd.DataFrame, np.ndarray]:
    """The heads that all runs have, N rows of ``KEYS``, and their values [R, N]."""
    columns: list[pd.Series] = []
    for source in every:
        name = source.about["name"]
        if missing := {*KEYS, "value"} - set(source.frame):
            raise ShapeError(f"{name}: no column {sorted(missing)[0]!r}; frames have {', '.join(KEYS)} and value")
        column = source.frame.astype({"layer": int, "head": int}).set_index(KEYS)["value"].astype(float).sort_index()
        if (twice := column.index[column.index.duplicated()]).size:
            raise ShapeError(f"{name}: {Head(*twice[0])} has two rows; give one a head")
        if (bad := column.index[~np.isfinite(column)]).size:
            raise ShapeError(f"{name}: the value of {Head(*bad[0])} is not finite; drop the head everywhere")
        if columns and (odd := column.index.symmetric_difference(columns[0].index)).size:
            raise ShapeError(
                f"{every[0].about['name']} has {len(columns[0])} heads, {name} {len(column)}: {Head(*odd[0])} is only "
                "in one of them; compare runs with the same heads"
            )
        columns.append(column)
    return columns[0].index.to_frame(index=False), np.stack(columns)


def _who(result: Comparison) -> str:
    runs = result.provenance["runs"]
    what = {"weight": "Learned weights", "importance": "Importance", "value": "Values"}[result.provenance["of"]]
    counts = " and ".join(f"{len(each)} {name} {'run' if len(each) == 1 else 'runs'}" for name, each in runs.items())
    on = f" on {result.provenance['dataset']['name']}" if "dataset" in result.provenance else ""
    return f"{what} of {len(result.frame)} heads{on} in {counts}."


def _agree(result: Comparison) -> str:
    """Agreement of runs, and whether those of two domains are less alike."""
    rows = result.agreement[result.agreement["statistic"] == "spearman"].set_index("pairs")
    within, between, contrast = list(rows.index[:2]), rows.index[2], rows.index[3]
    if np.isnan(rows.at[between, "value"]):
        return "Rank correlation is undefined, because in at least one run all heads have the same value."

    def shown(pairs: str) -> str:
        low, high = rows.at[pairs, "low"], rows.at[pairs, "high"]
        return f"{rows.at[pairs, 'value']:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")

    text = f"Two runs of different domains have a rank correlation of {shown(between)}"
    if np.isnan(rows.at[contrast, "value"]):
        return f"{text}. One run in a domain does not show how far its seeds agree: train more."
    text += "".join(f", two {pairs.removeprefix('within ')} runs of {shown(pairs)}" for pairs in within)
    gap, p, tests = rows.at[contrast, "value"], rows.at[contrast, "p"], result.provenance["tests"]
    if p <= _SURE:
        return f"{text}: domains agree less than seeds do, by {-gap:.2f} (p = {p:.2g}, permuting runs)."
    if p <= tests["smallest_p"] * 1.001:
        return (
            f"{text}: domains agree less than seeds do by {-gap:.2f}, the largest difference among all "
            f"{tests['splits']} "
            f"splits of these runs. This is a hint and not a proof: with so few runs p cannot be below {p:.2g}."
        )
    return f"{text}. This does not show that domains agree less than seeds do (p = {p:.2g}, permuting runs)."


def _differ(result: Comparison) -> str:
    """How many heads differ, and which the most."""
    about = result.provenance
    if np.isnan(about["tests"]["smallest_p"]):
        return "No head is tested, because one run gives no estimate of error."
    count, (first, second) = int(result.frame["significant"].sum()), result.domains
    rate = f"at an estimated false discovery rate of {about['level']:.3g}"
    if count == 0:
        return f"No head differs between the domains {rate}."
    top = result.strongest.iloc[0]
    example = f"{top['name']} ({first} {top[first]:.2f}, {second} {top[second]:.2f})"
    verb = "differs" if count == 1 else "differ"
    return f"{count} of {len(result.frame)} heads {verb} {rate}; the first is {example}."


def _limits(result: Comparison) -> str:
    """What the numbers rest on."""
    about, parts = result.provenance, []
    smallest, level = about["tests"]["smallest_p"], about["level"]
    if not np.isnan(smallest):
        if smallest > level:
            single = f"no single head can have a p below {smallest:.2g}: there are too few runs to name one"
        else:
            single = f"tested one by one, {int((result.frame['q_own'] <= level).sum())} heads pass the same rate"
        parts.append(
            "This rate pools the null distributions of all heads, which assumes that heads are exchangeable. Without "
            "that "
            f"assumption, all heads together differ with p = {about['tests']['any_p']:.2g}, and {single}."
        )
    if about["of"] == "importance" and "dataset" not in about:
        parts.append(
            "Runs saw different images: differences of detectors and of images are mixed, and no interval covers "
            "the choice of images."
        )
    name = about["backbone"].get("name")
    if str(about["backbone"].get("weights", "")).startswith("embedded"):
        parts.append(f"Made by backbone {name}, which has never seen a photograph: it says nothing about other CLIPs.")
    elif name:
        parts.append(f"Made by backbone {name}.")
    return " ".join(parts)
