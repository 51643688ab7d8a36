"""What each way of adapting a backbone buys: every method, several seeds, both domains, tested in both.

    python analyses/family_comparison.py --model mini-captions --seeds 0 1 2 3 4 --out runs/family --jobs 12
    python analyses/family_comparison.py --out runs/family --tables
    python analyses/family_comparison.py --out runs/family --tables --csv headlens/training/shipped/comparison.csv

Every run is trained on a procedural ``aux`` set, painted anew for its seed, and tested on categories of both domains
that neither it nor the backbone has seen. All know an image as an ``object``, take batches of 8 and a rate of 0.001
(head weights 0.005, KAnoCLIP's matrices 0.0001), and pass over the set five times in each of their stages; some learn
nothing. Values are means over seeds with 95 % intervals by Student's t; differences are to hand-written prompts, or
between runs of the same seed, and so paired. The file that --csv names has a row for each value; rows of another
backbone stay in it.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pandas as pd
from trained_runs import DOMAINS, NOTHING, Choices, Task, arguments, cell, collected, floor, run_all, spread

_HANDS = {"prompts": "ensemble"}
_AA = {"class_aware": False, "augment": False, "text_lr": 1e-3, "image_lr": 1e-3, "text_batch": 8, "image_batch": 8}
_AA |= {"text_epochs": 5, "image_epochs": 5}
HAND = "hand-written prompts"
METHODS: Choices = {
    HAND: ("headclip", {**_HANDS, "head_weights": "none"}, {}),
    "HeadCLIP": ("headclip", {}, {}),
    "AnomalyCLIP": ("headclip", {"head_weights": "none"}, {}),
    "HeadCLIP without deep prompts": ("headclip", {"deep": 0}, {}),
    "head weights alone, local": ("headclip", _HANDS, {}),
    "head weights alone, global": ("headclip", {**_HANDS, "streams": ("global",)}, {}),
    "head weights alone, both": ("headclip", {**_HANDS, "streams": ("global", "local")}, {}),
    "head weights alone, both, sigmoid": (
        "headclip",
        {**_HANDS, "streams": ("global", "local"), "head_weights": "sigmoid"},
        {},
    ),
    "head weights alone, both, softmax": (
        "headclip",
        {**_HANDS, "streams": ("global", "local"), "head_weights": "softmax"},
        {},
    ),
    "APRIL-GAN": ("april-gan", {"class_aware": False}, {}),
    "AA-CLIP": ("aa-clip", _AA, {}),
    "AA-CLIP, text alone": ("aa-clip", {**_AA, "image_epochs": 0}, {}),
    "AA-CLIP, images alone": ("aa-clip", {**_AA, "text_epochs": 0}, {}),
    "AA-CLIP at its published rates": (
        "aa-clip",
        {name: value for name, value in _AA.items() if not name.endswith("_lr")},
        {},
    ),
    "AA-CLIP and head weights": ("aa-clip", {**_AA, "head_weights": "free"}, {}),
    "Crane": ("crane", {}, {}),
    "AdaCLIP": ("adaclip", {"class_aware": False}, {}),
    "AnoCLIP": ("anoclip", {"class_aware": False}, {}),
    "WinCLIP": ("winclip", {"class_aware": False}, {}),
    "SC-CLIP": ("sc-clip", {"class_aware": False}, {}),
    "KAnoCLIP": ("kanoclip", {}, {}),
    "KAnoCLIP without knowledge": ("kanoclip", {"kd_weight": 0.0}, {}),
    "KAnoCLIP without V-V": ("kanoclip", {"local_start": -1}, {}),
    "KAnoCLIP without cross attention": ("kanoclip", {"cross": "none"}, {}),
    "KAnoCLIP without Conv-Adapter": ("kanoclip", {"conv": "none"}, {}),
}
UNTRAINED = (HAND, "AnoCLIP", "WinCLIP", "SC-CLIP")
"""Choices that learn nothing: one run each, for both domains."""
PAIRS = (
    ("HeadCLIP", "AnomalyCLIP"),
    ("HeadCLIP", "HeadCLIP without deep prompts"),
    ("AA-CLIP", "HeadCLIP"),
    ("AA-CLIP", "AA-CLIP, text alone"),
    ("AA-CLIP", "AA-CLIP, images alone"),
    ("AA-CLIP", "AA-CLIP at its published rates"),
    ("AA-CLIP and head weights", "AA-CLIP"),
    ("AdaCLIP", "HeadCLIP"),
    ("KAnoCLIP", "AnomalyCLIP"),
    ("KAnoCLIP", "HeadCLIP"),
    ("KAnoCLIP", "AA-CLIP"),
    ("KAnoCLIP", "KAnoCLIP without knowledge"),
    ("KAnoCLIP", "KAnoCLIP without V-V"),
    ("KAnoCLIP", "KAnoCLIP without cross attention"),
    ("KAnoCLIP", "KAnoCLIP without Conv-Adapter"),
)
COLUMNS = {
    "I": ("joint", "auroc"),
    "I of the image alone": ("image", "auroc"),
    "I of the map": ("map", "auroc"),
    "P": ("pixel", "auroc"),
    "PRO": ("pixel", "aupro"),
}
SHOWN = ("I", "P", "PRO")
FLOOR = "local contrast"


def _values(frame: pd.DataFrame) -> pd.Series:
    keys = ["choice", "tested", "trained", "score", "metric", "seed"]
    return frame.set_index(keys)["value"].sort_index()


def _of(values: pd.Series, choice: str, tested: str, trained: str, column: tuple[str, str]) -> pd.Series:
    """One value for each seed; none where there are no such runs."""
    key = (choice, tested, NOTHING if choice in UNTRAINED else trained, *column)
    return values.loc[key] if key in values.index.droplevel("seed") else pd.Series(dtype=float)


def values_table(frame: pd.DataFrame, crosswise: bool) -> str:
    """In percent, tested in the domain of training, or in the other one."""
    values = _values(frame)
    lines = ["| tested on | method | runs | " + " | ".join(COLUMNS) + " |", "|---|---|---:|" + "---:|" * len(COLUMNS)]
    for tested in DOMAINS:
        trained = next(domain for domain in DOMAINS if (domain != tested) == crosswise)
        cells = [cell([value]) for value in floor(values.droplevel("seed"), tested, COLUMNS.values())]
        lines.append(f"| {tested} | {FLOOR} | | " + " | ".join(cells) + " |")
        for choice in METHODS:
            each = [_of(values, choice, tested, trained, column) for column in COLUMNS.values()]
            if len(each[0]):
                lines.append(f"| {tested} | {choice} | {len(each[0])} | " + " | ".join(map(cell, each)) + " |")
    return "\n".join(lines)


def differences_table(frame: pd.DataFrame) -> str:
    """In points, tested in the domain of training: to hand-written prompts, then between methods."""
    values = _values(frame)
    heads = [f"{domain} {name}" for domain in DOMAINS for name in SHOWN]
    lines = ["| difference | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for one, other in [*((choice, HAND) for choice in METHODS if choice != HAND), *PAIRS]:
        cells = []
        for domain, name in product(DOMAINS, SHOWN):
            first, second = (_of(values, choice, domain, domain, COLUMNS[name]) for choice in (one, other))
            if other in UNTRAINED:  # one value, without a seed
                second = pd.Series(float(second.iloc[0]) if len(second) else float("nan"), first.index)
            cells.append(cell((first - second).dropna(), "+"))
        if {*cells} == {"-"}:  # there are no such runs
            continue
        lines.append(f"| {one} - {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scores_table(frame: pd.DataFrame) -> str:
    """What the joint score buys: its image AUROC minus that of each of its parts, in points, by method and domain."""
    values = _values(frame)
    parts = [name for name in COLUMNS if name.startswith("I of")]
    heads = [f"{domain} joint - {name.removeprefix('I of the ')}" for domain in DOMAINS for name in parts]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for choice in METHODS:
        joint = {domain: _of(values, choice, domain, domain, COLUMNS["I"]) for domain in DOMAINS}
        each = [joint[d] - _of(values, choice, d, d, COLUMNS[name]) for d, name in product(DOMAINS, parts)]
        if any(map(len, each)):
            lines.append(f"| {choice} | " + " | ".join(cell(one, "+") for one in each) + " |")
    return "\n".join(lines)


def long_frame(frame: pd.DataFrame, backbone: str) -> pd.DataFrame:
    """A row for each method, domain of training and of test, and metric, as ``training.comparison`` has them."""
    values, rows = _values(frame), []
    for tested, metric in product(DOMAINS, SHOWN):
        (best,) = floor(values.droplevel("seed"), tested, [COLUMNS[metric]])
        rows.append((FLOOR, NOTHING, tested, metric, *spread([best]), 1))
    for choice, tested, metric in product(METHODS, DOMAINS, SHOWN):
        for trained in [NOTHING] if choice in UNTRAINED else DOMAINS:
            each = _of(values, choice, tested, trained, COLUMNS[metric])
            if len(each):
                rows.append((choice, trained, tested, metric, *spread(each), len(each)))
    made = pd.DataFrame(rows, columns=["method", "trained", "tested", "metric", "mean", "half", "seeds"])
    made.insert(0, "backbone", backbone)
    return made


def backbone_of(out: Path) -> str:
    """The backbone of all runs in a folder, as their cards say.

    Raises:
        SystemExit: no card, or runs on several backbones.
    """
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*/*/card.json")]
    named = sorted({card["backbone"]["name"] for card in cards})
    if len(named) != 1:
        raise SystemExit(f"{out}: its runs are on {', '.join(named) or 'no backbone'}; a table is of one backbone")
    return str(named[0])


def write_csv(file: Path, made: pd.DataFrame) -> None:
    """Into the file, in place of its rows of the same backbone."""
    there = pd.read_csv(file) if file.exists() else made[:0]
    both = pd.concat([part for part in (there[~there["backbone"].isin(made["backbone"])], made) if len(part)])
    both.to_csv(file, index=False, float_format="%.4f")


def main() -> None:
    parser = arguments(__doc__ or "", METHODS, "runs/family")
    parser.add_argument("--csv", type=Path, help="also write every value into this file")
    args = parser.parse_args()
    if not args.tables:
        trained = [choice for choice in args.choices if choice not in UNTRAINED]
        untrained = [Task(choice, 0, NOTHING) for choice in args.choices if choice in UNTRAINED]
        tasks = [Task(choice, seed, domain) for seed, choice, domain in product(args.seeds, trained, DOMAINS)]
        run_all(args, METHODS, [*untrained, *tasks])
    frame = collected(args.out, METHODS)
    tables = [values_table(frame, False), values_table(frame, True), differences_table(frame), scores_table(frame)]
    print("\n\n".join(tables))
    if args.csv:
        write_csv(args.csv, long_frame(frame, backbone_of(args.out)))
    (args.out / "tables.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
