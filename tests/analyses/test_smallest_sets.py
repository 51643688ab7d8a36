"""Tables and figure of ``analyses/smallest_sets.py``, of measurements of a tiny detector; its tasks."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from smallest_sets import METHODS, OTHER, RANKING, SETS, Task, figure, overlap_table, sizes_table, tasks

from headlens.heads import heads_of, overlap_of, transfer
from headlens.heads.variants import shuffled


@pytest.fixture
def results(make, pictures):
    """HeadCLIP in both domains; sets of seeds agree, domains do not."""
    detector, measured = make(torch.float32), {}
    few = pictures.where(lambda record: record.category == "wood")
    for stream, (number, domain) in product(("local", "global"), enumerate(("industrial", "medical"))):
        heads = heads_of(detector, streams=[stream])
        rankings = {RANKING: shuffled(heads, number), OTHER: heads}
        options = {"keep": [4], "random": 2, "replicates": 5, "metrics": ("pixel_aupro",)}
        done = transfer(detector, few, rankings, **options)
        measured |= {Task("HeadCLIP", domain, stream, i): done for i in range(2)}
    return measured


def test_every_method_is_measured_with_the_seeds_that_did_not_rank():
    every = list(tasks())
    assert len(set(every)) == len(every) == 2 * len(METHODS) * 2 + 2 * (len(METHODS) - 1) * 2
    assert not set(SETS[0]) & set(SETS[1]) and not any(t.method == "AA-CLIP" and t.stream == "local" for t in every)


def test_tables_have_sizes_and_overlaps(results):
    sizes = sizes_table(results)
    assert "| 12 local | HeadCLIP | industrial | 0, 1 | " in sizes and sizes.count("\n") == 1 + len(results)
    for line, result in zip(sizes.splitlines()[2:], results.values(), strict=True):
        least = result.smallest.set_index("ranking").loc[RANKING].astype(int)
        assert f"| {least['heads']} [{least['low']}, {least['high']}] |" in line
    rows = overlap_table(results).splitlines()[2:]
    assert len(rows) == 6  # for each stream: two domains' sets of seeds, and the domains by the first set
    assert sum("sets of seeds" in row and " | 1.00 | " in row for row in rows) == 4
    best = [results[Task("HeadCLIP", domain, "local", 0)].best(RANKING) for domain in ("industrial", "medical")]
    agreed = overlap_of(*best, 12)
    common = f"{agreed.common} of {len(best[0])} and {len(best[1])}"
    wanted = f"| 12 local | domains | HeadCLIP | {common} | {agreed.jaccard:.2f} | {agreed.chance:.2f} |"
    assert any(row.startswith(wanted) for row in rows)


def test_the_figure_is_of_headclip(results, tmp_path):
    figure(results, tmp_path / "smallest.png")
    assert (tmp_path / "smallest.png").stat().st_size > 10_000
