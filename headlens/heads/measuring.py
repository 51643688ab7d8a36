"""Every variant of a batch by the cheapest exact way: local heads by read-out alone, all others by restart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from headlens.detectors.scoring import Margins
from headlens.heads import closed_form
from headlens.heads.clean import CleanRun, Targets, targets
from headlens.heads.response import Kind, Replacement, begin_of, respond
from headlens.heads.variants import Variant

PROBES = {"global": Variant("none", ()), "local": Variant("none/local", ())}
"""What goes with a sweep to show the noise floor of either way."""
_COPIES = 16  # of one image's residual stream that a block holds at once: two streams, q, k, v, z, the MLP's four twice
_CACHE = 2**25  # bytes: a CPU is fastest where a block's tensors stay close to it
_SHARE = 16  # of a GPU's memory, which is fastest with many


def rows_within(clean: CleanRun, budget: int | None = None) -> int:
    """How many variants of one image fit into ``budget`` bytes while a block is run; 1 at least."""
    stream = clean.x[0][0]
    if budget is None:
        budget = 2**32
        if stream.device.type == "cpu":
            budget = _CACHE
        elif stream.device.type == "cuda":
            budget = torch.cuda.get_device_properties(stream.device).total_memory // _SHARE
    return max(1, budget // (_COPIES * stream.numel() * stream.element_size()))


@torch.no_grad()
def measure(
    clean: CleanRun,
    variants: Sequence[Variant],
    kind: Kind = "zero",
    replacement: Replacement | None = None,
    budget: int | None = None,
    follow: bool = False,
) -> Targets:
    """Scores of V variants of B images, [V, B] each; ``patch_map`` [V, B, ...].

    Args:
        clean: the images' clean run.
        variants: which heads; ``PROBES`` ablate nothing.
        kind, replacement: see ``headlens.heads.response``.
        budget: bytes that variants may take while a block is run; None chooses by the device. Given enough, a full
            sweep is one wavefront. Results do not depend on it beyond rounding.
        follow: see ``headlens.heads.response``.
    """
    count, batch = len(variants), len(clean)
    image = clean.margins.image.repeat(count, 1)  # (V, B)
    taps = {tap: margins.repeat(count, 1, 1) for tap, margins in clean.margins.taps.items()}  # (V, B, N)

    def on_device(numbers: list[int]) -> Tensor:
        return torch.tensor(numbers).to(image.device, non_blocking=True)

    by_layer: dict[tuple[int, Kind], list[int]] = defaultdict(list)
    others, fast = [], closed_form.applies(clean.reading) and not follow
    for row, variant in enumerate(variants):
        if fast and variant == PROBES["local"]:
            by_layer[clean.plan.local_layers[0], "none"].append(row)
        elif fast and variant.stream == "local" and variant.head is not None:
            assert variant.layer is not None
            by_layer[variant.layer, kind].append(row)
        else:
            others.append(row)
    local = closed_form.LocalTaps(clean) if by_layer else None
    for (layer, how), rows in by_layer.items():
        assert local is not None
        heads, at = on_device([variants[row].head or 0 for row in rows]), on_device(rows)
        for tap, margins in local.margins(layer, how, replacement).items():
            taps[tap][at] = margins[heads]
    others.sort(key=lambda row: min((head.layer for head in variants[row].heads), default=-1))
    depth, linear = len(clean.tower.blocks), clean.plan.local_is_linear
    begins = {begin_of(variants[row], depth, linear) for row in others} - {depth}
    lowest = min(begins, default=0)  # of all: the floor must not depend on how many variants fit
    at_once = max(1, rows_within(clean, budget) // batch)
    for first in range(0, len(others), at_once):
        rows = others[first : first + at_once]
        answer = respond(clean, [variants[row] for row in rows], kind, replacement, lowest, follow)
        at = on_device(rows)
        image[at] = answer.image
        for tap, margins in answer.taps.items():
            taps[tap][at] = margins
    flat = Margins(image.flatten(), {tap: margins.flatten(0, 1) for tap, margins in taps.items()})
    scores = targets(clean.scoring, flat, clean.grid, clean.size, clean.maps)
    # Margins that did not change by a bit are scored as the whole detector's were: enlarging rounds by batch.
    same = image == clean.margins.image
    for tap, margins in taps.items():
        same = same & (margins == clean.margins.taps[tap]).all(-1)

    def with_clean(name: str) -> Tensor:
        rows, before = getattr(scores, name).unflatten(0, (count, batch)), getattr(clean.targets, name)
        return torch.where(same[(...,) + (None,) * (rows.ndim - 2)], before, rows)

    return Targets(**{name: with_clean(name) for name in vars(scores)})
