"""Naming: which phrases span what a head writes into the joint space of images and words.

TextSpan (Gandelsman, Efros and Steinhardt, arXiv 2310.05916). With the scale σ of the read-out and the norm of the
embedding held fixed, a head adds ``c = r W`` to the unit embedding:

    r = z / (σ |e|)        the head's d channels, weighted, at the token that is read
    W = W_O^h Ĝ            [d, d_e]; see headlens.detectors.readout

A row is the CLS of an image for a global head; for a local head, and for a global one if the image feature is made of
patches only, it is a patch at the last tap. Only second moments of the rows are stored, d x d for each head
(``headlens.heads.span``), so memory does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from headlens import html, plots
from headlens.backbone.words import learnt
from headlens.data import Batch, DataSet, as_set
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.parts.ensemble import TEMPLATES
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.errors import DataError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.exactness import blank_reading, check_one_map, check_straight, check_unhooked, held_in
from headlens.heads.phrases import BUILT_IN, directions, distinct, read_phrases, unit
from headlens.heads.span import ROUNDING, Moments, row_space, text_span
from headlens.heads.store import alone
from headlens.heads.sweep import categories, finite, sweep
from headlens.heads.variants import Head, check_variants, heads_of, names_of, single_heads
from headlens.knowledge import Knowledge
from headlens.parallel import Arrays
from headlens.precision import full_precision, wide
from headlens.progress import Progress
from headlens.results import Result, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWS = 20
_MOMENTS = ("count", "mean", "scatter")


@dataclass(frozen=True)
class Naming(Result):
    """``frame``: one row for each head and phrase, in the order in which phrases were taken (``rank``, from 1).

    ===============  ==================================================================================================
    ``share``        of the head's variance, along what the phrase adds to those before it
    ``cumulative``   of this and all phrases before it; 1 at most
    ``chance``       what as many directions explain out of as many random mixtures of the phrases, the mean of 20 draws
    ``beats``        the share of these draws that explain less: words say nothing where it is about 0.5
    ``correlation``  over rows, of what the head writes along the phrase with the label: 1 for anomalous images at
                     CLS, the anomalous share of the patch at patches; NaN where one label is not known
    ``variance``     of all the head writes, in an embedding of length 1: names of a head that writes little mean little
    ===============  ==================================================================================================

    A head that writes the same everywhere, or nothing that any phrase has a part in, has one row: no phrase, share NaN.
    """

    @property
    def left_out(self) -> list[str]:
        """Phrases of the pool that were not used, because the backbone has not learned one of their words."""
        return list(self.provenance["left_out"])

    def _parts(self) -> list[str]:
        rows = self.frame[self.frame["phrase"].notna()]
        rows = rows.assign(head=names_of(rows)).sort_values(["variance", "head", "rank"], ascending=[False, True, True])
        heads = rows.groupby("head", sort=False)
        last = heads[["cumulative", "chance", "beats", "variance"]].last()
        last.insert(0, "phrases", heads["phrase"].agg(", ".join))
        about = "Heads that write most first; beats near 0.5 means: no better than chance"
        return [html.table(last.reset_index(), about)]

    def plot(self, ax: Axes | None = None, most: int = 6) -> plots.Figure:
        """Phrases of the ``most`` heads that write most; see ``headlens.plots.names``."""
        return plots.signed(plots.names(self.frame, ax, most=most), self.made_by, ax)


def last_quarter(detector: Detector) -> range:
    """The layers that are named by default: their output passes few or no blocks before it is read.

    These six of ``mini``'s 24 layers have half of its heads' variance; TextSpan's authors take the last four.
    """
    depth = detector.backbone.vision.cfg.n_layers
    return range(depth - max(1, depth // 4), depth)


@alone
def name_heads(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    heads: Iterable[Head] | None = None,
    *,
    pool: Sequence[str] | Knowledge | None = None,
    phrases: int = 5,
    seed: int = 0,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Naming:
    """Which phrases span what each head writes over a data set.

    Args:
        detector: a detector, or a run. Its head weights apply; its learned prompts are not used.
        data: the images; a data set, or its name for ``headlens.data.open``.
        heads: those of the global stream in the ``last_quarter`` of layers by default.
        pool: phrases, the built-in ones when None; or a knowledge base, whose sentences are used without templates.
            Phrases with words that the backbone has not learned are left out.
        phrases: maximal number per head.
        seed: seed of the random mixtures for ``chance``.
        size, batch, precision, out, progress: as in ``contributions``; a batch in ``out`` takes 34 kB per head with 64
            channels.

    Raises:
        ShapeError: no head, one twice, or one that does not exist; fewer than one phrase a head.
        DataError: fewer than two phrases that the backbone knows, or fewer than two images that can be read.
        ConfigError: a head below an adapter; a hook that would not be called; an unknown precision.
        RunError: ``out`` holds something else, or cannot be written.
    """
    detector, data = detector_of(detector), as_set(data)
    check_unhooked(detector, "naming")
    heads = heads_of(detector, last_quarter(detector), streams=("global",)) if heads is None else list(heads)
    if not heads or phrases < 1:
        raise ShapeError(f"{len(heads)} heads and {phrases} phrases for each; at least one of both is needed")
    check_variants(detector, single_heads(heads))
    reading = blank_reading(detector)
    check_straight(reading.plan, heads, "a name")
    readouts = {stream: _read_at(reading, stream)[0] for stream in sorted({head.stream for head in heads})}
    for stream, readout in readouts.items():
        check_one_map(readout, stream)
    templates = ["{}"] if isinstance(pool, Knowledge) else TEMPLATES
    known, left_out = learnt(detector.backbone, _phrases(pool))
    if len(known) < 2:
        raise DataError(
            f"{detector.backbone.provenance.name} knows the words of {len(known)} of {len(known) + len(left_out)} "
            f"phrases, such as not {left_out[0]!r}; at least 2 are needed: it has only learnt its captions' words"
        )
    texts = directions(detector.backbone, known, detector.encode_text, templates)
    total = Moments()
    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "out": out, "progress": progress}
    options["take"] = lambda part: total.add(Moments(*(torch.from_numpy(part.arrays[name][0]) for name in _MOMENTS)))
    options |= {"heads": list(map(str, heads)), "held": held_in(readouts.values())}
    swept = sweep(detector, data, partial(_moments, heads=heads), what="naming", **options)
    if (count := len(data) - len(swept.provenance["skipped"])) < 2:
        raise DataError(f"{data.name}: {count} images could be read; a variance needs at least 2")
    random, every = np.random.default_rng(seed), []
    # As many as the phrases, and of their covariance, but none means what one phrase means.
    mixtures = [unit(random.standard_normal((len(texts), len(texts))) @ texts) for _ in range(_DRAWS)]
    for head, mean, covariance in zip(heads, total.mean.numpy(), total.covariance.numpy(), strict=True):
        w_o = detector.backbone.vision.blocks[head.layer].attn.W_O[head.head].cpu().double()
        into = (w_o @ _read_at(reading, head.stream)[0].folded.matrix.detach().cpu().double()).numpy()  # W
        space = row_space(covariance[:-1, :-1], into)
        rows = _named(mean, covariance, into, space, texts, phrases)
        every.append(rows.assign(**head._asdict(), **_by_chance(rows, space, mixtures)))
    frame = pd.concat(every, ignore_index=True)
    frame["phrase"] = [known[number] if number >= 0 else None for number in frame["phrase"]]
    about = swept.provenance | {"seed": seed, "phrases": len(known), "left_out": left_out, "draws": _DRAWS}
    about["rows"] = {s: "patches" if _read_at(reading, s)[1] else "CLS" for s in {head.stream for head in heads}}
    return Naming(ordered(frame.assign(domain=data.domain, dataset=data.name)), about)


def _phrases(pool: Sequence[str] | Knowledge | None) -> list[str]:
    if pool is None:
        return read_phrases(BUILT_IN)
    return distinct([row.sentence for row in pool.rows] if isinstance(pool, Knowledge) else pool)


def _moments(detector: Detector, part: Batch, images: Tensor, heads: Sequence[Head]) -> Arrays:
    """Count [1, K], mean [1, K, d + 1] and scatter [1, K, d + 1, d + 1] of K heads' ``r``, the label being the last."""
    clean = clean_forward(detector, images, categories(part))
    of: dict[Head, Moments] = {}
    with full_precision(images.device):
        read = {s: (_scale(clean, s), _labels(part, clean, s)) for s in {head.stream for head in heads}}
        for (stream, layer), group in groupby(sorted(heads), key=itemgetter(0, 1)):
            chosen, (scale, labels) = list(group), read[stream]
            tokens = clean.patches if _read_at(clean.reading, stream)[1] else slice(0, 1)
            rows = (wide(clean.wrote(stream, layer)[:, tokens]) * scale[..., None, None]).flatten(0, 1)  # (rows, H, d)
            rows = rows[:, [head.head for head in chosen]]
            column = labels.to(rows)[:, None, None].expand(-1, len(chosen), 1)
            moments = Moments.of(torch.cat([rows, column], 2))
            for i, head in enumerate(chosen):
                of[head] = Moments(moments.count[i], moments.mean[i], moments.scatter[i])
    arrays = {name: torch.stack([getattr(of[head], name) for head in heads])[None].numpy() for name in _MOMENTS}
    finite({"what heads write": arrays["mean"][..., :-1]})  # a label may be unknown
    return arrays


def _scale(clean: CleanRun, stream: str) -> Tensor:
    """What multiplies a head's output where it is read, 1 / (σ |e|): CLS [B, 1], or patches at the last tap [B, N]."""
    readout, at_patches = _read_at(clean.reading, stream)
    count = clean.patches.stop - 1  # of a second copy of the patches nothing is taken
    tokens = clean.tapped(max(clean.plan.taps))[:, :count] if at_patches else clean.x[-1][:, :1]
    (_, covector), *_ = readout.held(tokens, clean.reading.text).reads
    return covector.scale


def _read_at(reading: Reading, stream: str) -> tuple[Readout, bool]:
    """How heads of a stream are read, and whether at the patches of the last tap; otherwise at CLS."""
    at_patches = stream == "local" or not reading.pooling.reads_cls
    return (reading.taps[max(reading.plan.taps)] if at_patches else reading.image), at_patches


def _labels(part: Batch, clean: CleanRun, stream: str) -> Tensor:
    """Of the same rows: 1 for anomalous images, or the anomalous share of a patch; NaN where not known. [rows]."""
    if not _read_at(clean.reading, stream)[1]:
        return torch.where(part.labels >= 0, part.labels.double(), torch.nan)
    rows, columns = clean.grid
    if part.masks is None:
        return torch.full((len(part) * rows * columns,), torch.nan, dtype=torch.float64)
    assert isinstance(part.masks, Tensor)
    edge = clean.tower.cfg.patch_size
    anomalous = avg_pool2d(part.masks.double()[:, None], edge)[:, 0, :rows, :columns].flatten(1)
    return torch.where(part.has_mask[:, None], anomalous, torch.nan).flatten()


def _named(
    mean: np.ndarray,
    covariance: np.ndarray,
    into: np.ndarray,
    space: tuple[np.ndarray, np.ndarray],
    texts: np.ndarray,
    phrases: int,
) -> pd.DataFrame:
    """One head's rows of the frame; ``phrase`` counts into the pool. The last column of the moments is the label."""
    inner, label, spread = covariance[:-1, :-1], covariance[:-1, -1], covariance[-1, -1]
    variance = float(np.square(space[0]).sum())
    if variance <= ROUNDING * np.square(mean[:-1] @ into).sum():
        variance = 0.0  # the same everywhere, but for rounding
    span = text_span(*space, texts, phrases if variance else 0)
    if not len(span.share):
        nothing = dict.fromkeys(("share", "cumulative", "correlation"), np.nan)
        return pd.DataFrame({"rank": [1], "phrase": -1} | nothing | {"variance": variance})
    along = into @ span.axes.T  # (d, k)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all labels are the same
        correlation = label @ along / np.sqrt(np.einsum("ik,ij,jk->k", along, inner, along) * spread)
    rows = pd.DataFrame({"rank": np.arange(1, len(span.share) + 1), "phrase": span.chosen, "share": span.share})
    return rows.assign(cumulative=span.share.cumsum(), correlation=correlation, variance=variance)


def _by_chance(
    rows: pd.DataFrame, space: tuple[np.ndarray, np.ndarray], mixtures: Iterable[np.ndarray]
) -> dict[str, np.ndarray | float]:
    """What random mixtures of the phrases explain: ``chance`` and ``beats`` of one head's rows."""
    if rows["share"].isna().any():
        return {"chance": np.nan, "beats": np.nan}
    shares = [text_span(*space, each, len(rows)).share for each in mixtures]
    drawn = np.stack([np.pad(share, (0, len(rows) - len(share))).cumsum() for share in shares])
    return {"chance": drawn.mean(0), "beats": (drawn < rows["cumulative"].to_numpy()).mean(0)}
