"""A rendered figure to files: PDF, PNG, caption, tables; whole or not at all, and the same bytes when made again."""

from __future__ import annotations

import io
from pathlib import Path

from headlens.errors import RunError
from headlens.figures.spec import RenderedFigure
from headlens.files import SOFTWARE
from headlens.plots.style import paper
from headlens.printing import unicode
from headlens.provenance import versions
from headlens.results import write

DPI = 300  # at most


def check_free(name: str, out: Path, question: str) -> None:
    """Raises RunError where the figure of that name is there already and answers another question."""
    page = out / f"{name}.md"
    if page.exists() and f"| question | {question} |" not in page.read_text(encoding="utf-8", errors="replace"):
        raise RunError(f"{page} is of other runs, images or settings; name another --out, or take it away")


def save(rendered: RenderedFigure, name: str, title: str, out: Path, command: str, question: str) -> list[Path]:
    """Writes ``NAME.pdf``, ``NAME.png``, ``NAME.md`` (the caption and what it was made of) and tables into ``out``.

    Args:
        rendered: what.
        name, title: of the figure.
        out: a folder, made if need be.
        command: what makes it again.
        question: a digest of what it depends on.

    Returns:
        The files.

    Raises:
        RunError: one cannot be written.
    """
    contents: dict[str, bytes] = {}
    with paper():
        rendered.figure.draw_without_rendering()
        rendered.figure.set_layout_engine("none")  # once: both files have the same layout
        for suffix in ("pdf", "png"):
            sink = io.BytesIO()
            # Without dates and versions the bytes depend on what is rendered alone.
            about = {"CreationDate": None} if suffix == "pdf" else {"Software": SOFTWARE}
            rendered.figure.savefig(sink, format=suffix, dpi=min(rendered.dpi, DPI), metadata=about)
            contents[f".{suffix}"] = sink.getvalue()
    contents |= {suffix: unicode(text).encode() for suffix, text in rendered.tables.items() if suffix != ".md"}
    contents[".md"] = unicode(_page(rendered, name, title, command, question)).encode()
    written = []
    for suffix, content in contents.items():
        written.append(out / f"{name}{suffix}")
        write(written[-1], content)
    return written


def _page(rendered: RenderedFigure, name: str, title: str, command: str, question: str) -> str:
    rows = {"made by": [f"`{command}`"], "question": [question]}
    backbones = {run.detector.backbone.provenance for run in rendered.runs}
    rows["backbone"] = sorted(f"{one.name} ({one.weights}), SHA-256 {_short(one.sha256)}" for one in backbones)
    rows["runs"] = [f"{run.folder.name} ({_short(run.card.get('model_sha256'))})" for run in rendered.runs]
    rows["images"] = [f"{data.name}, {len(data)} (fingerprint {_short(data.fingerprint)})" for data in rendered.images]
    known = versions("torch", "open_clip_torch", "transformer-lens", "matplotlib")
    rows["versions"] = [f"{package} {number}" for package, number in known.items()]
    table = "\n".join(f"| {key} | {', '.join(values) or 'none'} |" for key, values in rows.items())
    below = f"\n{rendered.tables['.md']}\n" if ".md" in rendered.tables else ""
    return f"# {title}\n\n![{title}]({name}.png)\n\n{rendered.caption}\n{below}\n| | |\n|---|---|\n{table}\n"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
