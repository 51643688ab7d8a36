"""What a knowledge base teaches prompts: they stay near its sentences in the joint space.

With d(p, s) the distance of a prompt and a sentence of its state, and a softmin in place of each nearest one,

    to(p) = -τ log mean_s exp(-d(p, s) / τ)        of the prompts: each near some sentences
    to(s) = -τ log mean_p exp(-d(p, s) / τ)        of the sentences: each near some prompt

the loss is the mean over prompts, or over sentences, or of both, and over the two states. Its gradient moves a prompt
to each sentence by a soft assignment, the softmax of -d / τ: to all alike with a large τ, to the nearest with a small
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.embedded import NAMES
from headlens.backbone.words import learnt
from headlens.errors import DataError
from headlens.knowledge import Knowledge, catalogued, load, shipped
from headlens.knowledge.rows import STATES, plain
from headlens.precision import full_precision

Distance = Literal["cosine", "euclidean"]
Assign = Literal["prompts", "sentences", "both"]


@dataclass(frozen=True)
class Taught:
    """Sentences of a base that a backbone can read: ``normal`` and ``anomalous`` ones, each once."""

    normal: tuple[str, ...]
    anomalous: tuple[str, ...]
    fingerprint: str

    def embedded(self, backbone: Backbone) -> list[Tensor]:
        """Unit embeddings of the sentences of each state, [S, d_e], as fine as weights are; never differentiated."""
        device = backbone.logit_scale.device
        with full_precision(device), torch.inference_mode(False), torch.no_grad():
            states = map(list, (self.normal, self.anomalous))
            return [backbone.encode_text(backbone.tokenizer(sentences), normalize=True) for sentences in states]


def knowledge_of(backbone: Backbone, base: str = "") -> Knowledge:
    """The base in a file; by default the one that ships.

    An embedded backbone has read few of its words, so that the catalogue of its worlds is with it by default.

    >>> from headlens.backbone import load
    >>> len(knowledge_of(load("mini")).rows) > len(knowledge_of(load("ViT-S-32")).rows)
    True
    """
    if base:
        return load(base)
    return Knowledge(shipped().rows + catalogued()) if backbone.provenance.name in NAMES else shipped()


def taught(backbone: Backbone, base: str = "", domains: Sequence[str] = ()) -> Taught:
    """What a base says that ``backbone`` can have read, of all categories and images alike.

    Args:
        backbone: whose text tower reads the sentences.
        base, domains: as in ``KAnoCLIPConfig``.

    Raises:
        DataError: a base with a fault, a domain that it does not have, or no sentence of a state that can be read.
    """
    knowledge = knowledge_of(backbone, base)
    wanted, existing = {plain(domain) for domain in domains}, {plain(domain): domain for domain in knowledge.domains}
    if unknown := sorted(wanted - existing.keys()):
        raise DataError(f"the knowledge base has no domain {unknown[0]!r}; there are {', '.join(existing.values())}")
    states: dict[str, tuple[str, ...]] = {}
    for state in STATES:
        rows = [row for row in knowledge.rows if row.state == state and (not wanted or plain(row.domain) in wanted)]
        sentences = list(dict.fromkeys(row.sentence for row in rows))
        states[state] = tuple(learnt(backbone, sentences)[0])
        if not states[state]:
            why = f"has read the words of none of its {len(sentences)}" if sentences else "would have to read one"
            raise DataError(
                f"the knowledge base has no {state} sentence for these prompts: {backbone.provenance.name} {why}; give "
                "a base that has some, or train with kd_weight 0"
            )
    return Taught(**states, fingerprint=knowledge.fingerprint)


def distances(prompts: Tensor, sentences: Tensor, distance: Distance = "cosine") -> Tensor:
    """Of unit prompts [P, d_e] and unit sentences [S, d_e], [P, S]: 1 minus the cosine, or the Euclidean distance.

    >>> distances(torch.eye(2), torch.eye(2)[:1]).flatten()
    tensor([0., 1.])
    """
    away = 1 - prompts @ sentences.to(prompts).T
    return away if distance == "cosine" else (2 * away).clamp(min=1e-12).sqrt()


def distillation(
    prompts: Tensor,
    sentences: Sequence[Tensor],
    distance: Distance = "cosine",
    temperature: float = 0.05,
    assign: Assign = "both",
) -> Tensor:
    """The loss of prompts [2, P, d_e], normal and abnormal ones, against the unit embeddings of each state's sentences.

    >>> here, there = torch.eye(2)[:1], torch.eye(2)[1:]
    >>> distillation(torch.stack([here, there]), [here, here], temperature=1.0).item()
    0.5
    """
    terms = []
    with full_precision(prompts.device):
        for of_state, known in zip(prompts, sentences, strict=True):
            away = distances(of_state, known, distance)
            ways = {"prompts": 1, "sentences": 0}
            for axis in ways.values() if assign == "both" else [ways[assign]]:
                spread = math.log(away.shape[axis])
                nearest = -temperature * ((-away / temperature).logsumexp(axis) - spread)
                terms.append(nearest.mean())
    return torch.stack(terms).mean()
