"""What the shell completes: runs, data sets, categories, methods and pages by name. Where none fits, files."""

from __future__ import annotations

from pathlib import Path

import typer

from headlens.training.shipped import DOMAINS, METHODS, NAMES

SETS = (
    *(f"procedural:{domain}{split}" for domain in DOMAINS for split in ("", "/novel", "/aux", "/seen")),
    *("procedural:generated", "procedural:generated/aux", "procedural:clips", "procedural:clips/aux"),
)
"""Procedural sets, which are not asked for their names, because that imports what they are painted with."""
_CONFIG = "config.toml"


def runs(incomplete: str) -> list[str]:
    """Shipped runs, those with a seed once one is begun, and run folders here and one folder below.

    >>> runs("mini-captions-ind")[:2]
    ['mini-captions-industrial', 'mini-captions-industrial-aa-clip']
    """
    shipped = [name for name in METHODS if name.startswith(incomplete)]
    seeds = [name for name in NAMES if name.startswith(f"{incomplete}-") or name == incomplete]
    paths = [path for pattern in (f"*/{_CONFIG}", f"*/*/{_CONFIG}") for path in sorted(Path().glob(pattern))]
    here = [str(path.parent) for path in paths if str(path.parent).startswith(incomplete)]
    return [*shipped, *(seeds if incomplete in METHODS else []), *here]


def data_sets(incomplete: str) -> list[str]:
    """Procedural sets; bash, for which a colon ends a word, completes them up to it.

    >>> data_sets("procedural:med")
    ['procedural:medical', 'procedural:medical/novel', 'procedural:medical/aux', 'procedural:medical/seen']
    """
    return [name for name in SETS if name.startswith(incomplete)]


def categories(context: typer.Context, incomplete: str) -> list[str]:
    """Of the set that is named: a procedural one, or the folders of one."""
    given = context.params.get("data") or context.params.get("path")
    name = str(given[0] if isinstance(given, list | tuple) and given else given or "")
    if name and not name.startswith("procedural:"):
        names = sorted(path.name for path in Path(name).expanduser().glob("*") if path.is_dir())
    else:
        from headlens.data.procedural import CLIPS, ClipWorld, world_of

        name = name or f"procedural:{context.params.get('domain') or 'industrial'}"
        names = list((ClipWorld(name) if name in CLIPS else world_of(name)).categories)
    return [category for category in names if category.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Methods that can be trained or looked up."""
    from headlens.overview import shipped

    return [row.preset for row in shipped() if row.preset.startswith(incomplete)]


def pages(incomplete: str) -> list[str]:
    """Of the documentation, but for its index."""
    names = sorted(path.stem for path in pages_folder().glob("*.md"))
    return [name for name in names if name.startswith(incomplete) and name != "README"]


def pages_folder() -> Path:
    """Where the documentation is: in the package once it is installed, next to it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "docs"
    return installed if installed.is_dir() else package.parent / "docs"
