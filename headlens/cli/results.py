"""Where results go: every question has file names of its own, and its results are never written over another one's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from headlens.cli.result_names import slug, with_digest
from headlens.errors import RunError
from headlens.files import is_result
from headlens.printing import unicode

if TYPE_CHECKING:
    import numpy as np

    from headlens.attribution import Attribution
    from headlens.data import DataSet
    from headlens.heads import MapParts, PromptParts
    from headlens.results import Result
    from headlens.training.run import Run

Single = TypeVar("Single", "Attribution", "MapParts", "PromptParts")

_NO_QUESTION = ("versions", "image", "skipped")  # of a result's provenance: they do not change the result


def stem(*parts: object, **facts: object) -> str:
    """The name of files that answer one question, without a suffix.

    Args:
        *parts: what of the question is spelled out, in order; empty ones are left out.
        **facts: what else the answer depends on, such as a folder's files; None is left out. They are in the name as
            eight digits of a hash, so that no other question has the same name.

    >>> stem("ablate", "mini-industrial-0", "L18", "", "procedural:industrial")
    'ablate-mini-industrial-0-L18-procedural-industrial'
    >>> stem("ablate", "mine", "screw", data="a fingerprint")
    'ablate-mine-screw-c9e4e9b4'
    """
    known = {name: value for name, value in facts.items() if value is not None}
    return slug(*parts, digest([list(map(str, parts)), known])[:8] if known else "")


def stem_of(verb: str, run: Run, data: DataSet, *settings: object, **facts: object) -> str:
    """The stem of what a verb's settings ask of a run on a data set."""
    return stem(verb, run.folder.name, *settings, data.name, run=run_fact(run), data=data_fact(data), **facts)


def save(result: Result, path: Path, **options: Any) -> list[Path]:
    """Writes a result's Parquet to ``path``, and its figure next to it, drawn with ``options``; returns both."""
    return [result.save(path), result.plot(**options).save(path.with_suffix(".png"))]


def free_name(out: Path, name: str, abouts: Mapping[str, dict[str, Any]]) -> str:
    """``name`` for results, or, where other questions' results lie there already, with a digest of the question.

    What a result is about is read from its own file, Parquet or npz. Versions of software make no other question, nor
    do the names that the same image has. A figure in its place that headlens did not make is another's, too.
    ``abouts`` are the provenance of each result, by how its file's name ends.
    """
    questions = {end: _question(about) for end, about in abouts.items()}
    if all(_is_free(out / f"{name}{end}", question) for end, question in questions.items()):
        return name
    return with_digest(name, "".join(questions.values()))


def of_image(result: Single, path: Path, image: np.ndarray, region: np.ndarray | None = None) -> Single:
    """``result`` with the image it is of in its provenance and, where it is of a region alone, that."""
    about = {"image": unicode(str(path)), "image_sha256": sha256(image.tobytes()).hexdigest()}
    if region is not None:
        about["region_sha256"] = sha256(region.tobytes()).hexdigest()
    return replace(result, provenance=result.provenance | about)


def _is_free(path: Path, question: str) -> bool:
    figure = path.with_suffix(".png")
    if figure.exists() and not is_result(figure):
        return False
    return not path.exists() or _question(_provenance(path)) == question


def _question(about: dict[str, Any]) -> str:
    return json.dumps({key: about[key] for key in sorted(about) if key not in _NO_QUESTION})


def _provenance(path: Path) -> dict[str, Any]:
    from headlens.attribution.attribute import read_provenance
    from headlens.results import read_parquet

    try:
        return read_parquet(path)[1] if path.suffix == ".parquet" else read_provenance(path)
    except RunError:
        return {}


def digest(question: object) -> str:
    """SHA-256 of anything that JSON can hold."""
    return sha256(json.dumps(question, sort_keys=True, default=str).encode()).hexdigest()


def run_fact(run: Run) -> str | None:
    """What tells a run from others of its name; None of a shipped one, whose name says it all."""
    from headlens.training.shipped import folders

    if run.folder in folders(run.folder.name):
        return None
    card = run.card
    return digest([card.get("model_sha256"), run.detector.config.table(), run.size, card.get("backbone")])


def data_fact(data: DataSet) -> str | None:
    """What tells a data set from others of its name; None of a procedural set, whose name says it all."""
    from headlens.data import ProceduralSet

    if isinstance(data, ProceduralSet) and data.domain == data.world.domain:
        return None
    return digest([data.fingerprint, data.domain, getattr(data, "max_pixels", None)])


def report_notes(notes: Mapping[str, Any], of: str = "") -> None:
    """Says on standard error which images did not count, and why; ends with status 1 where some were left out.

    ``notes`` are a result's provenance, or ``headlens.data.notes.Notes``; ``of`` is what the images are of.
    """
    from headlens.data.notes import lines

    unread = notes.get("reference_skipped") or {}
    for line in [*lines(notes, of=of), *lines({"skipped": unread}, of="the reference")]:
        typer.echo(line, err=True)
    if notes.get("skipped") or unread:
        raise typer.Exit(1)
