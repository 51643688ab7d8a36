"""``prompt_parts``: which prompts the anomaly map of one image comes from, and which sentences these are near."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch

from headlens import html, plots
from headlens.backbone.words import learnt
from headlens.data import Pixels, Preprocess
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.parts.distillation import knowledge_of
from headlens.detectors.scoring import check_map
from headlens.errors import DataError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.exactness import check_unhooked
from headlens.heads.map_parts import peak_of
from headlens.knowledge import Knowledge, load
from headlens.predict import Image, as_bytes, category_of, name_of
from headlens.provenance import detector_provenance
from headlens.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PromptParts(Result):
    """The margins of one image, prompt by prompt, and what each prompt says.

    Args:
        frame: a row for each prompt, by ``state`` and number: ``value``, the mean over patches and taps of what it has
            of their margins; ``peak``, its mean over the 5 % of patches where the margin is highest, minus ``value``;
            ``image``, what it has of the image margin. In logits; over prompts, each adds up to that of the margin.
        sentences: of each prompt those of the knowledge base that it is nearest to, by ``rank``: ``sentence``,
            ``said_of``, the state that the base has it for, and ``cosine``.
    """

    TABLES: ClassVar = ("sentences",)
    sentences: pd.DataFrame

    def _parts(self) -> list[str]:
        nearest = self.sentences[self.sentences["rank"] == 1].drop(columns="rank")
        table = self.frame.merge(nearest, on=["state", "prompt"]).sort_values("peak", ascending=False)
        return [html.figure(self.plot().figure, "prompts of a map"), html.table(table, "What prompts add to the peak")]

    def plot(self, ax: Axes | None = None) -> plots.Figure:
        """What each prompt adds to the peak, and its nearest sentence; see ``headlens.plots.prompts``."""
        return plots.signed(plots.prompts(self.frame, self.sentences, ax), self.made_by, ax)


@torch.no_grad()
def prompt_parts(
    detector: Detector | HasDetector,
    image: Image,
    *,
    base: Knowledge | str | Path | None = None,
    nearest: int = 3,
    size: int | None = None,
    category: str | None = None,
) -> PromptParts:
    """The share of each prompt in the margins of an image, exact in sum, and its nearest sentences in the joint space.

    Where prompts depend on the image, they are those of this image.

    Args:
        detector: a detector, or a run; prompts may be learned or hand-written.
        image: a path, a PIL image, an array, a tensor; see ``headlens.predict``.
        base: a knowledge base or its file; by default the one that ships, with the catalogue of the procedural worlds
            for an embedded backbone. Sentences with words that the backbone has not learned are left out.
        nearest: number of sentences per prompt.
        size: the image is resized to this square; the detector's size when None.
        category: what the image shows, as in ``headlens.predict``.

    Raises:
        DataError, ShapeError: no image; a base with an error, or without a sentence that the backbone can read;
            fewer than one sentence.
        ConfigError: a hook that would be ignored.


    >>> import headlens
    >>> from headlens import knowledge
    >>> run, base = headlens.load("mini-industrial"), knowledge.Knowledge(knowledge.catalogued()[:50])
    >>> parts = prompt_parts(run, torch.zeros(3, 56, 56), base=base, size=56, nearest=1)
    >>> parts.sentences["state"].tolist()
    ['normal', 'abnormal']
    """
    detector, category = detector_of(detector), category_of(image, category)
    check_map(detector.reads_map, "the share of each prompt in the map")
    check_unhooked(detector, "the parts of prompts")
    if nearest < 1:
        raise ShapeError(f"nearest is {nearest}; at least one sentence for each prompt is needed")
    knowledge = knowledge_of(detector.backbone) if base is None else base if isinstance(base, Knowledge) else load(base)
    known, said_of, left_out = _known(detector, knowledge)
    preprocess = Preprocess(size or detector.image_size)
    seen = preprocess(Pixels(as_bytes(image), None)).image
    clean = clean_forward(detector, preprocess.normalise(seen[None].to(detector.device)), [category])
    frame = _frame(clean)
    embedded = detector.encode_text(detector.backbone.tokenizer(known))
    rows = []
    for state, vectors in clean.reading.text.prompts.items():
        cosines = (vectors[0].to(embedded) @ embedded.T).cpu()  # (P, sentences)
        best = cosines.topk(min(nearest, len(known)), 1)
        for prompt, (values, numbers) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            for rank, (cosine, number) in enumerate(zip(values, numbers, strict=True), 1):
                rows.append((state, prompt, rank, known[number], said_of[number], cosine))
    sentences = pd.DataFrame(rows, columns=["state", "prompt", "rank", "sentence", "said_of", "cosine"])
    about: dict[str, Any] = {"what": "prompt parts", "image": name_of(image), "category": category}
    about |= {"size": preprocess.size, "nearest": nearest}
    about |= {"base_sha256": knowledge.fingerprint, "sentences": len(known), "left_out": left_out}
    return PromptParts(frame, detector_provenance(detector, **about), sentences)


def _known(detector: Detector, knowledge: Knowledge) -> tuple[list[str], list[str], int]:
    """Sentences that the backbone can have read, the state that each is said of, and how many others there are."""
    states: dict[str, str] = {}
    for row in knowledge.rows:
        states[row.sentence] = row.state if states.get(row.sentence, row.state) == row.state else "both"
    known, left_out = learnt(detector.backbone, states)
    if not known:
        name = detector.backbone.provenance.name
        raise DataError(f"{name} has read the words of none of the {len(left_out)} sentences; give another base")
    return known, [states[sentence] for sentence in known], len(left_out)


def _frame(clean: CleanRun) -> pd.DataFrame:
    reading, features, margins, grid = clean.reading, clean.features, clean.margins, clean.grid
    each = [reading.text.shares(features.taps[tap]) for tap in clean.plan.taps]
    margin = torch.stack([margins.taps[tap] for tap in clean.plan.taps]).mean(0)[0]
    peak = torch.from_numpy(peak_of(clean.scoring.on_patches(margin, grid).cpu().numpy()[None])[0])
    of_image = reading.image_contrast.shares(reading.pooling(features.cls, features.of_image, margins.taps))
    rows = []
    for state in each[0]:
        at_patches = torch.stack([shares[state] for shares in each]).mean(0)[0].mT  # (P, what taps read)
        for prompt, values in enumerate(clean.scoring.on_patches(at_patches, grid).cpu()):
            mean, image = float(values.mean()), of_image.get(state)
            in_image = 0.0 if image is None else float(image[0, prompt])
            rows.append((state, prompt, mean, float(values[peak].mean()) - mean, in_image))
    return pd.DataFrame(rows, columns=["state", "prompt", "value", "peak", "image"])
