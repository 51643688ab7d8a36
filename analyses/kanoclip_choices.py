"""Which of KAnoCLIP's open choices matter: every alternative, trained with several seeds in both domains.

    python analyses/kanoclip_choices.py --model mini-captions --seeds 0 1 2 3 4 --out runs/kanoclip --jobs 12
    python analyses/kanoclip_choices.py --out runs/kanoclip --tables

As ``family_comparison.py``, which has KAnoCLIP without each of its parts: trained on a procedural ``aux`` set, painted
anew for its seed, tested on categories of its domain that nothing has been trained on. The table has differences to the
defaults with the same seed and images: means over seeds with 95 % intervals by Student's t.
"""

from __future__ import annotations

from itertools import product

import pandas as pd
from trained_runs import DOMAINS, Choices, Task, arguments, cell, collected, run_all

DEFAULT = "KAnoCLIP"
CHANGES = (
    *({"prompt_count": count} for count in (1, 2, 8)),
    {"reduce": "max"},
    *({"kd_weight": weight} for weight in (0.0, 0.3, 3.0, 10.0)),
    {"kd_distance": "euclidean"},
    *({"kd_temperature": temperature} for temperature in (0.01, 0.2)),
    *({"kd_assign": side} for side in ("prompts", "sentences")),
    {"local_start": -1},
    *({"cross": sides} for sides in ("none", "patches", "prompts")),
    {"cross_heads": 4},
    *({"conv": what} for what in ("none", "patches", "image")),
    {"conv_kernel": 1},
    {"conv_act": "none"},
    {"taps": (23,)},
    *({"matrix_lr": rate} for rate in (1e-5, 1e-3)),
    {"local_weight": 4.0},
)
CHOICES: Choices = {DEFAULT: ("kanoclip", {}, {})} | {
    ", ".join(f"{name} = {value}" for name, value in changes.items()): ("kanoclip", changes, {}) for changes in CHANGES
}
COLUMNS = {"I": ("joint", "auroc"), "P": ("pixel", "auroc"), "PRO": ("pixel", "aupro")}


def choices_table(frame: pd.DataFrame) -> str:
    """Differences to the default, in points, tested in the domain of training; the default's values, in percent."""
    within = frame[frame["trained"] == frame["tested"]]
    values = within.set_index(["tested", "score", "metric", "choice", "seed"])["value"].sort_index()
    heads = [f"{domain} {name}" for domain in DOMAINS for name in COLUMNS]
    lines = ["| choice | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for choice in CHOICES:
        cells = []
        for domain, column in product(DOMAINS, COLUMNS.values()):
            of = values.loc[(domain, *column)]
            first = of.loc[choice] if choice in of.index.droplevel("seed") else pd.Series(dtype=float)
            cells.append(cell(first) if choice == DEFAULT else cell((first - of.loc[DEFAULT]).dropna(), "+"))
        if {*cells} != {"-"}:
            lines.append(f"| {choice} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__ or "", CHOICES, "runs/kanoclip")
    args = parser.parse_args()
    if not args.tables:
        run_all(
            args, CHOICES, [Task(choice, seed, d) for seed, choice, d in product(args.seeds, args.choices, DOMAINS)]
        )
    table = choices_table(collected(args.out, CHOICES))
    print(table)
    (args.out / "choices.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
