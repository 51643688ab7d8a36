"""Which heads carry a back door in learned prompts, and does silencing them remove it and leave the detector?

    python analyses/trigger.py --quick --domains industrial --seeds 0             # one seed, small images, two cores
    python analyses/trigger.py --seeds 0 1 2 3 4 --device cuda --jobs 4
    python analyses/trigger.py --tables

A study of BadCLIP (arXiv 2311.16194) for those who defend detectors. For each domain and seed: prompts are learned on
clean images, then a trigger and prompts that heed it (``trigger_attack.py``). The heads are looked for on the training
categories, and everything is measured on categories that neither prompts nor trigger have seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from trained_runs import DOMAINS, cell, paint_sets, painted, settle
from trigger_attack import DETECTOR, Attack, learn

from headlens import heads
from headlens.backbone import load
from headlens.data import DataSet, Trigger, triggered
from headlens.detectors import Detector, build
from headlens.detectors.methods.crane import Crane
from headlens.detectors.stages import TrainingConfig
from headlens.heads import Head, Variant
from headlens.heads.effects import draws, of_ranks
from headlens.predict import predict
from headlens.results import write
from headlens.training.calibration import best_threshold
from headlens.training.run import CONFIG, load_run, save_run
from headlens.training.trainer import train

FOUND_BY = ("paired ablation", "direct effect", "importance moved")
"""Rankings of heads that look at the trigger; the others are controls."""
ORDINARY = "importance, clean"
KEYS = ["stream", "layer", "head"]
REPLICATES = 200
TOP = 16
MEASURES = {"auroc": "clean AUROC", "triggered": "AUROC, anomalies triggered", "success": "attack success"}
RATES = {"seen": "anomalies seen", "alarms": "false alarms"}
"""At the threshold, on clean images: success says little of a detector that calls everything anomalous, or nothing."""


class Task(NamedTuple):
    """One attack."""

    domain: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.domain}-{self.seed}"


def sets(args: argparse.Namespace, task: Task) -> tuple[DataSet, DataSet]:
    """Images to train on and to look for heads in; and images of other categories, to measure on."""
    aux = painted(args.out, f"procedural:{task.domain}/aux", args.per_category // 2, task.seed)
    test = painted(args.out, f"procedural:{task.domain}", args.per_category, 0)
    return aux, test


def prepared(args: argparse.Namespace, task: Task) -> tuple[Detector, Detector]:
    """The detector before and after the attack, whose triggers are then in the folder, too."""
    folder, clip = args.out / task.name, load(args.model, device=args.device)
    clean, poisoned = folder / "clean", folder / "poisoned"
    aux, _ = sets(args, task)
    if not (clean / CONFIG).exists():
        training = TrainingConfig(epochs=args.epochs, seed=task.seed, size=args.size)
        train(build(clip, "crane", task.seed, **DETECTOR), aux, training, clean, cpu=args.device == "cpu")
    run = load_run(clean, clip)
    if not (poisoned / CONFIG).exists():
        detector = cast(Crane, load_run(clean, clip).detector.requires_grad_(True))
        for name, trigger in learn(detector, aux, args.attack, args.size, task.seed).items():
            trigger.save(folder / f"{name}.safetensors")
        scores = predict(detector.requires_grad_(False), aux, batch=args.batch).joint_score
        about = {"trained_on": aux.name, "images": len(aux), "selection": "the last step; nothing was selected"}
        about |= {"threshold": best_threshold(scores.cpu(), labels_of(aux)), "poisoned": vars(args.attack)}
        save_run(poisoned, detector, run.training, about)
    return run.detector, load_run(poisoned, clip).detector


def labels_of(dataset: DataSet) -> Tensor:
    """1 anomalous, 0 normal."""
    return torch.tensor([int(bool(record.anomalous)) for record in dataset.records])


def measured(
    test: DataSet, clean: Tensor, under: Tensor, thresholds: list[float | None], seed: int = 0
) -> pd.DataFrame:
    """AUROC and attack success of V detectors, with 95 % bootstrap intervals over images.

    Args:
        test: N images.
        clean, under: [V, N], scores without and with the trigger.
        thresholds: of the V detectors, from clean images of training.
        seed: of the bootstrap.

    Returns:
        A row for each: ``auroc``; ``triggered``, that of anomalous images with the trigger against clean normal ones;
        and ``success``, how many of the anomalies that are seen without the trigger are missed with it. Each with
        ``_low`` and ``_high``; AUROC is the mean over categories. ``RATES`` follow.
    """
    labels, limits = labels_of(test).bool(), torch.tensor([np.nan if t is None else t for t in thresholds])[:, None]
    seen = (clean > limits) & labels
    lost = seen & (under <= limits)
    aurocs: dict[str, list[Any]] = {"auroc": [], "triggered": []}
    counts = []
    for category in test.categories:
        here = [i for i, record in enumerate(test.records) if record.category == category]
        times = draws(len(here), REPLICATES, seed, category)
        for name, scores in (("auroc", clean), ("triggered", torch.where(labels, under, clean))):
            # A first row, from which the function takes differences, is any of them.
            rows = torch.cat([scores[:1], scores])[:, here]
            effects = of_ranks(rows, labels[here], times, ["image_auroc"])["image_auroc"]
            aurocs[name].append((effects.value, effects.replicates + effects.whole[:, None]))
        counts.append([times @ each[:, here].double().T for each in (lost, seen)])
    columns: dict[str, np.ndarray] = {}
    for name, parts in aurocs.items():
        values, drawn = (np.nanmean([part[i] for part in parts], 0) for i in (0, 1))
        columns |= _with_interval(name, values, drawn)
    of_lost, of_seen = (sum(each[i] for each in counts) for i in (0, 1))
    rate = lost.sum(1).double() / seen.sum(1)
    columns |= _with_interval("success", rate.numpy(), (of_lost / of_seen).numpy())
    alarms = ((clean > limits) & ~labels).sum(1).numpy() / int((~labels).sum())
    return pd.DataFrame(columns | {"seen": seen.sum(1).numpy() / int(labels.sum()), "alarms": alarms})


def _with_interval(name: str, values: np.ndarray, drawn: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return {name: values, f"{name}_low": low, f"{name}_high": high}


def patterns(args: argparse.Namespace, task: Task, before: Detector, after: Detector) -> pd.DataFrame:
    """What patterns do to the detector with clean prompts and to the one with poisoned prompts."""
    aux, test = sets(args, task)
    folder = args.out / task.name
    learned = {name: Trigger.load(folder / f"{name}.safetensors") for name in ("alone", "together")}
    drawn = torch.randint(2, learned["alone"].pattern.shape, generator=torch.Generator().manual_seed(task.seed))
    noise = Trigger((2 * drawn - 1) * args.attack.limit, args.attack.limit)
    rows = []
    for prompts, detector, patterns_of in (
        ("clean", before, {"noise": noise, "trigger of phase 1": learned["alone"], "trigger": learned["together"]}),
        ("poisoned", after, {"noise": noise, "trigger": learned["together"]}),
    ):

        def scores(dataset: DataSet, detector: Detector = detector) -> Tensor:
            return predict(detector, dataset, size=args.size, batch=args.batch).joint_score.cpu()

        limit, clean = best_threshold(scores(aux), labels_of(aux)), scores(test)
        under = [scores(triggered(test, trigger)) for trigger in patterns_of.values()]
        each = measured(test, clean.expand(len(under), -1), torch.stack(under), [limit] * len(under))
        rows.append(each.assign(prompts=prompts, pattern=list(patterns_of)))
    return pd.concat(rows)


def found(args: argparse.Namespace, task: Task, detector: Detector) -> pd.DataFrame:
    """A row for each head, and what three ways say of its part in the trigger's effect, on training categories.

    ``paired ablation`` (also with ``text held``) and ``direct effect`` are shares of what the trigger takes from the
    margin of anomalous images: how much of it comes back where the head alone sees the clean image, and how much of it
    the head wrote itself.
    """
    clean = sets(args, task)[0].where(lambda record: bool(record.anomalous))
    clean = clean[:: max(1, len(clean) // args.pairs)]
    under = triggered(clean, args.out / task.name / "together.safetensors")
    options: dict[str, Any] = {"size": args.size, "batch": args.batch}
    every = heads.single_heads(heads.heads_of(detector, streams=["global"]))
    columns: dict[str, pd.Series] = {}
    for name, text in (("paired ablation", "follows"), ("text held", "held")):
        paired = heads.ablate(
            detector, under, every, kind="paired", reference=clean, text=text, metrics=(), replicates=1, **options
        ).frame.query("metric == 'image_margin' and kind == 'paired'")
        columns[name] = paired.groupby(KEYS)["effect"].mean()
    direct = [_of_heads(heads.contributions(detector, images, **options).frame) for images in (clean, under)]
    taken = direct[0].groupby("image")["baseline"].first() - direct[1].groupby("image")["baseline"].first()
    columns["direct effect"] = (_by_head(direct[0]) - _by_head(direct[1])).groupby(KEYS).mean()
    slopes = [
        heads.importance(detector, images, metrics=("image_margin",), **options).frame for images in (clean, under)
    ]
    columns["importance moved"] = (_by_head(slopes[0]) - _by_head(slopes[1])).abs().groupby(KEYS).mean()
    columns[ORDINARY] = _by_head(slopes[0]).abs().groupby(KEYS).mean()
    frame = pd.DataFrame(columns).reset_index()
    for name in ("paired ablation", "text held", "direct effect"):
        frame[name] /= taken.mean()
    return frame.assign(taken=taken.mean())


def _of_heads(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["kind"] == "head") & (frame["metric"] == "image_margin")]


def _by_head(frame: pd.DataFrame) -> pd.Series:
    return frame[frame["stream"] == "global"].set_index(["image", *KEYS])["value"]


def orders(args: argparse.Namespace, carried: pd.DataFrame, seed: int) -> list[Variant]:
    """Growing groups of heads to silence: what carries the trigger first, by each ranking; and controls."""
    variants = []
    for name in (*args.found_by, ORDINARY):
        ranked = carried.sort_values(name, ascending=False, kind="stable")
        ranking = [Head(*key) for key in ranked[KEYS].itertuples(index=False)]
        variants += heads.cumulative(ranking, args.steps, name)
    for number in range(args.random):
        variants += heads.cumulative(
            heads.shuffled(sorted(ranking), 100 * seed + number), args.steps, f"random {number}"
        )
    return variants


def silenced(args: argparse.Namespace, task: Task, detector: Detector, carried: pd.DataFrame) -> pd.DataFrame:
    """What is left of the back door and of the detector when heads write their mean over clean training images."""
    aux, test = sets(args, task)
    under = triggered(test, args.out / task.name / "together.safetensors")
    variants = orders(args, carried, task.seed)

    def scores(dataset: DataSet) -> Tensor:
        """[V + 1, N], of the detector as it is first."""
        options = {"reference": aux, "text": "follows", "metrics": (), "size": args.size, "batch": args.batch}
        frame = heads.ablate(detector, dataset, variants, kind="mean", replicates=1, **options).frame
        frame = frame.query("metric == 'joint_score' and kind == 'mean'")
        table = frame.pivot(index="variant", columns="image", values="value")
        names = [record.name for record in dataset.records]
        table = table.loc[[variant.name for variant in variants], names]
        whole = frame.groupby("image")["baseline"].first()[names]
        return torch.from_numpy(np.vstack([whole.to_numpy()[None], table.to_numpy()]))

    limits = [best_threshold(row, labels_of(aux)) for row in scores(aux)]
    frame = measured(test, scores(test), scores(under), limits)
    return frame.assign(
        order=["", *(variant.order for variant in variants)], heads=[0, *(len(variant.heads) for variant in variants)]
    )


def work(job: tuple[int, argparse.Namespace, Task]) -> str:
    """Attacks, looks and measures; what is there is not made again."""
    number, args, task = job
    settle(number, args)
    folder = args.out / task.name
    before, after = prepared(args, task)
    if not (folder / "patterns.csv").exists():
        patterns(args, task, before, after).to_csv(folder / "patterns.csv", index=False)
    if not (folder / "heads.csv").exists():
        found(args, task, after).to_csv(folder / "heads.csv", index=False)
    if not (folder / "silenced.csv").exists():
        carried = pd.read_csv(folder / "heads.csv")
        silenced(args, task, after, carried).to_csv(folder / "silenced.csv", index=False)
    return task.name


def collected(out: Path, tasks: list[Task], name: str) -> pd.DataFrame:
    """A table of all tasks that have it."""
    there = [task for task in tasks if (out / task.name / name).exists()]
    frames = [pd.read_csv(out / task.name / name, keep_default_na=False, na_values=[""]) for task in there]
    frames = [frame.assign(**task._asdict()) for frame, task in zip(frames, there, strict=True)]
    return pd.concat(frames, ignore_index=True)


def cells(some: pd.DataFrame, intervals: bool = True) -> str:
    """Means over seeds with their 95 % intervals; of a single seed those over images."""
    each = [cell(some[name]) for name in (*MEASURES, *RATES)]
    if len(some) == 1 and intervals:
        ends = [(some[f"{name}_low"].iloc[0], some[f"{name}_high"].iloc[0]) for name in MEASURES]
        shown = [f"{text} [{100 * low:.0f}, {100 * high:.0f}]" for text, (low, high) in zip(each, ends, strict=False)]
        each = [*shown, *each[len(shown) :]]
    return " | ".join(each)


def patterns_table(rows: pd.DataFrame) -> str:
    """Means over seeds, in percent."""
    lines = [f"| domain | prompts | pattern | {' | '.join((MEASURES | RATES).values())} |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for (domain, prompts, pattern), some in rows.groupby(["domain", "prompts", "pattern"], sort=False):
        lines.append(f"| {domain} | {prompts} | {pattern} | {cells(some)} |")
    return "\n".join(lines)


def silenced_table(rows: pd.DataFrame) -> str:
    """Means over seeds, and for random orders over orders of a seed first, in percent."""
    rows = rows.assign(order=rows["order"].fillna("none").str.replace(r"random \d+", "random", regex=True))
    rows = rows.groupby(["domain", "order", "heads", "seed"], sort=False).mean(numeric_only=True).reset_index()
    lines = [f"| domain | heads ranked by | silenced | {' | '.join((MEASURES | RATES).values())} |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for (domain, order, count), some in rows.groupby(["domain", "order", "heads"], sort=False):
        lines.append(f"| {domain} | {order} | {count} | {cells(some, intervals=order != 'random')} |")
    return "\n".join(lines)


def heads_table(rows: pd.DataFrame) -> str:
    """How much the trigger takes from a margin, what has it, and which rankings agree; ρ is Spearman's."""
    others = ("direct effect", "importance moved", ORDINARY)
    titles = ["margin taken", "undone by one head, most", f"direct, most of {TOP}", "undone with the text held"]
    titles += [f"ρ with {name}" for name in others]
    lines = [f"| domain | seed | {' | '.join(titles)} |", f"|---|---:|{'---:|' * len(titles)}"]
    for (domain, seed), some in rows.groupby(["domain", "seed"], sort=False):
        undone = some["paired ablation"]
        best = some.loc[undone.idxmax()]
        cells = [f"{some['taken'].iloc[0]:.2f}", f"{Head(*best[KEYS])} {best['paired ablation']:.0%}"]
        cells += [f"{some['direct effect'].nlargest(TOP).sum():.0%}"]
        cells += [f"{np.polyfit(undone, some['text held'], 1)[0]:.2f}"]
        cells += [f"{undone.corr(some[name], 'spearman'):.2f}" for name in others]
        lines.append(f"| {domain} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(carried: pd.DataFrame, silent: pd.DataFrame, path: Path) -> None:
    """A row for each domain: each head's share of the trigger's effect, and the measures over heads silenced."""
    from matplotlib.figure import Figure

    from headlens import plots

    domains = list(dict.fromkeys(carried["domain"]))
    fig = Figure(figsize=(13, 3.6 * len(domains)), layout="constrained")
    axes = fig.subplots(len(domains), 1 + len(MEASURES), squeeze=False, width_ratios=(1.3, 1, 1, 1))
    for domain, (left, *others) in zip(domains, axes, strict=True):
        rows = carried[carried["domain"] == domain].groupby(["layer", "head"], as_index=False)[list(FOUND_BY)].mean()
        rows = rows.assign(
            top=rows["paired ablation"].rank(ascending=False) <= TOP, share=100 * rows["paired ablation"]
        )
        title = f"{domain}: the trigger's effect undone by one head"
        plots.grid(rows, "share", left, title=title, label=f"% (dots: the first {TOP})", centre=0, marks="top")
        of = silent[silent["domain"] == domain].copy()
        of["order"] = of["order"].fillna("").str.replace(r"random \d+", "random", regex=True)
        others[1].sharey(others[0])  # of AUROC both
        for ax, (name, label) in zip(others, MEASURES.items(), strict=True):
            _curves(ax, of, name)
            ax.set_title(f"{label} (%)", fontsize="medium")
        others[-1].legend(fontsize="x-small", frameon=False)
    fig.savefig(path, dpi=110)


def _curves(ax: Any, rows: pd.DataFrame, name: str) -> None:
    """A line for each order with the range of seeds; nothing silenced at the left."""
    whole = rows[rows["order"] == ""]
    for number, (order, some) in enumerate(rows[rows["order"] != ""].groupby("order", sort=False)):
        joined = pd.concat([whole, some]).groupby(["heads", "seed"])[name].mean().unstack() * 100
        style = {"color": "0.6"} if order == "random" else {"color": f"C{number}"}
        if order == ORDINARY:
            style |= {"linestyle": "--"}
        at = np.arange(len(joined))
        ax.plot(at, joined.mean(axis=1), marker=".", label=str(order), **style)
        ax.fill_between(at, joined.min(axis=1), joined.max(axis=1), alpha=0.12, linewidth=0, color=style["color"])
        ax.set_xticks(at, [str(count) for count in joined.index])
    ax.set_xlabel("heads silenced")
    ax.spines[["top", "right"]].set_visible(False)


def arguments() -> argparse.Namespace:
    """What the script is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/trigger"))
    parser.add_argument("--tables", action="store_true", help="measure nothing, and print what is there")
    parser.add_argument("--quick", action="store_true", help="few images of 112 px: minutes on two cores")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", default="mini-captions")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--per-category", type=int, default=80, help="of the test sets; half as many to train on")
    parser.add_argument("--epochs", type=int, default=5, help="of the clean prompts")
    parser.add_argument("--limit", type=int, default=8, help="of the pattern, in levels of an 8-bit image")
    parser.add_argument("--together", type=int, default=10, help="epochs of pattern and prompts together")
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=1, help="attacks at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(threads=torch.get_num_threads(), pairs=80, steps=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.set_defaults(random=3, found_by=FOUND_BY)
    args = parser.parse_args()
    if args.quick:
        args.size, args.per_category, args.pairs, args.batch = 112, 20, 8, 20
        args.steps, args.random, args.found_by = [4, 16, 64], 1, FOUND_BY[:1]
    args.attack = Attack(args.limit, together=args.together)
    return args


def main() -> None:
    args = arguments()
    tasks = [Task(domain, seed) for seed in args.seeds for domain in args.domains]
    if not args.tables:
        processes = torch.multiprocessing.get_context("spawn")
        paint_sets(args, processes)
        with processes.Pool(args.jobs, maxtasksperchild=1) as pool:  # on one GPU from beginning to end
            jobs = [(number % args.jobs, args, task) for number, task in enumerate(tasks)]
            for name in pool.imap_unordered(work, jobs, chunksize=1):
                print(name, flush=True)
    carried, silent = (collected(args.out, tasks, f"{name}.csv") for name in ("heads", "silenced"))
    tables = patterns_table(collected(args.out, tasks, "patterns.csv")), heads_table(carried), silenced_table(silent)
    text = "\n\n".join(tables)
    print(text)
    write(args.out / "trigger.md", f"{text}\n".encode())
    figure(carried, silent, args.out / "trigger.png")


if __name__ == "__main__":
    main()
