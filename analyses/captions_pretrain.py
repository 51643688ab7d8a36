"""Pre-trains the backbone that is not aware of anomalies: sentences about rich scenes, and CLIP's loss.

    torchrun --nproc-per-node 4 analyses/captions_pretrain.py --recipe aligned --seconds 900 --out runs/captions

No mask, no twin and no label of a flaw is in a loss. A sentence names a state or a flaw as seldom as the recipe's
``named`` says. ``dense``, where it is above 0, weighs the alignment of patches with what they show: things, marks and
background, never flaws, which are part of the thing that they are on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from captions_scenes import EARLIER_NAMES, NAMES, SHAPES, SHARP, THIRD_NAMES, SceneBatch, Scenes
from captions_words import Scribe
from mini_pretrain import LOCAL, Recipe, Said, Task, contrastive_loss, main, normalised
from mini_stream import sent
from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.text import TEMPERATURE

VALIDATION = ("marble", "cardboard", "zipper", "connector", "liver_ct", "bone_xray", "fundus")
"""Categories that no recipe sees while recipes are compared; none of them is in a test set of unseen categories."""


@dataclass(frozen=True)
class Captioned(Recipe):
    """A recipe of sentences. The weights of the terms that read labels of flaws are zero."""

    dense: float = 1.0
    state: float = 0.0
    rank: float = 0.0
    easy_until: float = 0.0
    small_until: float = 0.4
    pool: int = 20_000
    named: float = 0.12  # share of sentences that name a state or a flaw
    flawed: float = 0.3  # share of images with a flaw, named or not
    rich: float = 0.35  # share of images with a second thing, and of those with marks
    shapes: int = SHARP  # of marks: the first six have sharp edges, three more are soft and may be faint
    names: tuple[str, ...] = EARLIER_NAMES


_ALIGNED = Captioned()
_COMPARED = replace(_ALIGNED, names=tuple(name for name in EARLIER_NAMES if name not in VALIDATION))
_MORE = replace(_ALIGNED, named=0.03, small_until=0.0, warmup=100)
_MARKS = replace(_MORE, shapes=len(SHAPES))
_OFTEN = replace(_MARKS, named=0.5, flawed=0.5, rich=0.25)
RECIPES = {
    "aligned": replace(_ALIGNED, named=0.03),  # chosen
    # The four that are compared, on fewer categories.
    "compared-sentences": replace(_COMPARED, dense=0.0),
    "compared-rare": replace(_COMPARED, named=0.03),
    "compared-seldom": _COMPARED,
    "compared-often": replace(_COMPARED, named=0.4),
    # A second cycle on the chosen one's weights (--init): full size, every severity.
    "more": _MORE,
    "more-marks": _MARKS,
    "more-seldom": replace(_MARKS, named=0.2, flawed=0.5, rich=0.25),
    "more-often": _OFTEN,  # chosen
    # A third cycle on those weights: many more kinds of things.
    "more-kinds": replace(_OFTEN, names=THIRD_NAMES),
    # A fourth cycle on those: many more kinds of scans, most of all of ultrasound.
    "more-scans": replace(_OFTEN, names=NAMES),
}


def alignment(patches: dict[int, Tensor], things: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of what every patch shows: ``patches`` {tap: [b, N, d]}, ``things`` [K, d], ``shares`` [b, K, N].

    Patches that show several things share their weight; those with anything but the usual thing count more.
    """
    usual = shares.sum(2, keepdim=True).argmax(1, keepdim=True).expand(-1, -1, shares.shape[2])
    weight = 1 + 3 * (1 - shares.gather(1, usual)[:, 0])  # [b, N]
    total = weight.new_zeros(())
    for tokens in patches.values():
        logits = F.normalize(tokens.float(), dim=-1) @ things.T / TEMPERATURE
        total = total - ((logits.log_softmax(2) * shares.mT).sum(2) * weight).sum() / weight.sum()
    return total / len(patches)


def say(batch: SceneBatch, captions: Scribe, dense_on: bool) -> Said:
    """A sentence for each scene; and, for the alignment, what patches may show."""
    device = batch.images.device
    said, stated = captions.sentences(batch.attributes)
    # Tokens stay on the CPU, where the text tower looks at them: a GPU would have to be waited for.
    tokens = captions.tokens(said + (captions.things() if dense_on else []), torch.device("cpu"))
    return Said(tokens, sent(stated, device), sent(batch.attributes, device))


def losses(model: Backbone, batch: SceneBatch, said: Said, recipe: Captioned, dense_on: bool) -> dict[str, Tensor]:
    """CLIP's loss, every image that a sentence is true of being its positive; and the alignment of things."""
    stated, attributes, first = said.stated, said.attributes, len(batch.shares)
    images = normalised(batch.images)
    if dense_on:  # the local stream costs half a forward more: for the first quarter only
        out = model.vision(images[:first], VisionPlan(recipe.taps, LOCAL), hooked=False)
        rest = model.vision(images[first:], hooked=False)
        embedding = torch.cat([out.embedding, rest.embedding])
    else:
        embedding = model.vision(images, hooked=False).embedding
    texts = F.normalize(model.text(said.tokens, hooked=False).float(), dim=-1)
    agree = ((attributes[:, None] == attributes[None]) | ~stated[:, None]).all(2)  # [sentence, image]
    embedding = F.normalize(embedding.float(), dim=-1)
    terms = {"clip": contrastive_loss(embedding, texts[: len(images)], model.logit_scale, agree)}
    if dense_on:
        terms["dense"] = alignment(out.patches, texts[len(images) :], batch.shares.flatten(2))
    return terms


def scenes(recipe: Captioned, size: int, seed: int, device: torch.device) -> Scenes:
    """The recipe's images."""
    options = {"flawed": recipe.flawed, "names": recipe.names, "rich": recipe.rich, "shapes": recipe.shapes}
    return Scenes(size, recipe.pool, recipe.fresh, seed, device, **options)


def scribe(recipe: Captioned, tokenizer: Any, seed: int) -> Scribe:
    """The recipe's sentences."""
    return Scribe(tokenizer, seed, recipe.named)


SENTENCES = Task(scenes, scribe, say, losses)

if __name__ == "__main__":
    torch.backends.cuda.enable_cudnn_sdp(False)  # at 8 numbers a head, FlashAttention is faster and plans nothing
    main(RECIPES, SENTENCES, __doc__ or "")
