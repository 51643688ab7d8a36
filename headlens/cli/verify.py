"""``headlens verify``: is the hooked CLIP the same as open_clip's, here, with these weights?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Architectures by their open_clip names, mini or mini-captions.", show_default="mini"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Weight file of the (one) architecture, or a folder with one. By default random weights; for "
            "mini and mini-captions, theirs.",
            exists=True,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights and images.", min=0, max=2**63 - 1)] = 0,
) -> None:
    """Compare the hooked towers with open_clip's model with the same weights.

    Uses random images at the architecture's native size, 518x518 and 336x518, in float64 and float32.

    The columns: image and image_fast, encode_image with and without hooks; text, encode_text; heads, the sum of head
    outputs and bias against the attention output; residual, the sum of the embedding and all parts against the residual
    stream. Each is the largest deviation relative to the largest value.

    Exits with 1 if anything deviates by more than the limit.
    """
    names = names or ["mini"]
    if weights is not None and len(names) != 1:
        raise typer.BadParameter("--weights needs exactly one architecture")

    import torch

    from headlens.backbone import embedded
    from headlens.backbone.config import architecture
    from headlens.backbone.loading import load
    from headlens.backbone.parity import parity
    from headlens.backbone.weights import find_weights

    checks = ("image", "image_fast", "text", "heads", "residual")
    ratios = []
    for name in names:
        architecture(name)  # a typing mistake is reported before anything is computed
    for name in names:
        state = None
        if weights is None and name not in embedded.NAMES:
            typer.echo(f"{name}: random weights (seed {seed}); this is about arithmetic, not about images")
        else:
            provenance = load(name, weights).provenance  # checks names, shapes and activation first
            state = find_weights(name, weights).state
            typer.echo(f"{name}: {provenance.weights}, SHA-256 {provenance.sha256}, {provenance.activation}")
        typer.echo(f"  {'size':9} {'dtype':8}" + "".join(f"{check:>12}" for check in checks) + f"{'limit':>9}")
        for row in parity(name, state, seed=seed):
            ratios += [row[check] / row["limit"] for check in checks]
            figures = "".join(f"{row[check]:12.1e}" for check in checks)
            typer.echo(f"  {row['size']:9} {row['dtype']:8}{figures}{row['limit']:9.0e}")
    worst = float(torch.tensor(ratios).max())  # NaN stays NaN, which is not equal
    typer.echo(
        f"{'equal' if worst <= 1 else 'NOT EQUAL'}: largest deviation is {worst:.2g} of its limit "
        f"(torch {torch.__version__}, {torch.get_num_threads()} threads)"
    )
    if not worst <= 1:
        raise typer.Exit(1)
